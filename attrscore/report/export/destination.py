"""Where exported files go: whole or not at all, and over no other unless told so."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrscore.errors import ConfigError, preview
from attrscore.store.commit import aside_of, make_folder, sync

__all__ = ["check_free", "new_file", "new_folder"]


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


@contextmanager
def new_file(path: Path, /) -> Iterator[Path]:
    """Where to write what is to stand at ``path``; it is put there, synced, when the block ends.

    :raises StoreError: disk full, not writable; what was there before is untouched.
    """
    make_folder(path.parent)
    with aside_of(path) as aside:
        yield aside
        sync(aside)


@contextmanager
def new_folder(path: Path, /) -> Iterator[Path]:
    """As :func:`new_file`, for a folder; one that was there is replaced at the end."""
    make_folder(path.parent)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    old = aside.with_suffix(".old")
    try:
        yield aside
        for folder, _, names in os.walk(aside):
            for name in names:
                sync(Path(folder) / name)
        if path.exists():
            path.rename(old)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
