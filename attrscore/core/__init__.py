"""What crosses every boundary: contracts, heat and grids, passes, layers, the registry."""
