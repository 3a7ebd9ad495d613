"""Training on a dataset's labels, with whole groups held out."""

from __future__ import annotations

from attrscore.training.fit import Epoch, Rows, Trained, split, train

__all__ = ["Epoch", "Rows", "Trained", "split", "train"]
