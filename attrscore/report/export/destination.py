"""Exported files replace no other unless that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrscore.errors import ConfigError, preview

__all__ = ["check_free"]


def check_free(paths: Sequence[Path], /, *, force: bool) -> None:
    """Nothing is written before it is known that nothing would be overwritten.

    :raises ConfigError: something is there, and ``force`` was not said.
    """
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise ConfigError(
            f"{preview(there, most=3)} {'exists' if len(there) == 1 else 'exist'}; say --force to "
            "overwrite, or another place with --output."
        )
