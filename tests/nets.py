"""Small networks and batches that the tests share: those of attrscore.testing."""

from __future__ import annotations

from attrscore.testing.samples import SPACES, Net, batch, cells, conv, net, pool

__all__ = ["CHEAP", "SPACES", "Net", "batch", "cells", "conv", "net", "pool"]

CHEAP = {
    "deletion": {"steps": 4},
    "infidelity": {"samples": 4},
    "insertion": {"steps": 4},
    "random_map": {"count": 9},
    "road": {"fractions": [0.3, 0.6]},
    "sensitivity_max": {"samples": 2},
    "swap": {"count": 2},
}
"""Options of scorers that take long by default."""
