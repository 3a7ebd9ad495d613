"""attrscore."""
