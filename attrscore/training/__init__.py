"""Training on a dataset's labels with whole groups held out, guided or not; losses and monitors."""

from __future__ import annotations

from attrscore.training.fit import (
    Epoch,
    Monitored,
    Rows,
    Trained,
    monitor,
    random_band,
    split,
    train,
)
from attrscore.training.guides import Guide, MaskedCrops, Outside, Rrr, Swap, Unguided
from attrscore.training.live import Live, LivePass, outside, watch

__all__ = [
    "Epoch",
    "Guide",
    "Live",
    "LivePass",
    "MaskedCrops",
    "Monitored",
    "Outside",
    "Rows",
    "Rrr",
    "Swap",
    "Trained",
    "Unguided",
    "monitor",
    "outside",
    "random_band",
    "split",
    "train",
    "watch",
]
