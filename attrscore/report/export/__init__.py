"""Scores and maps taken back to where a lab works.

``tables``: CSV, Parquet, AnnData, scores joined onto profile tables; ``fields``: maps laid into the
images that crops were cut from (this needs torch); ``viewing``: crops in napari; ``trackers``: the
local stores of MLflow and Weights & Biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from attrscore.errors import ConfigError, preview

__all__ = ["ImageFormat", "Tracker", "check_free"]

ImageFormat = Literal["tiff", "omezarr", "nifti"]
"""How :mod:`attrscore.report.export.fields` writes images."""
Tracker = Literal["mlflow", "wandb"]
"""Where :mod:`attrscore.report.export.trackers` logs."""


def check_free(paths: Sequence[Path], /, *, force: bool) -> None:
    """Check before anything is written that nothing would be overwritten.

    :raises ConfigError: something is there, without ``force``.
    """
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise ConfigError(
            f"{preview(there, most=3)} {'exists' if len(there) == 1 else 'exist'}; say --force to "
            "overwrite, or another path with --output."
        )
