"""Where cells come from. Importing this package registers the built-in datasets."""

from __future__ import annotations

from attrscore.datasets.phantom import Phantom

__all__ = ["Phantom"]
