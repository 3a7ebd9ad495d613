"""What files were found to be like, so that opening one again need not look."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Remembered"]

T = TypeVar("T")

Stamps = tuple[tuple[Path, tuple[int, ...] | None], ...]


class Remembered(Generic[T]):
    """Layouts of files, by path and whatever else decides, until one of these files changes.

    A layout is small, a few kB: nothing decoded, nothing open. At most ``most`` are kept, those
    found last.
    """

    def __init__(self, most: int, /) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, tuple[Stamps, T]] = OrderedDict()

    def get(self, key: Hashable, find: Callable[[], tuple[T, Iterable[Path]]], /) -> T:
        """The layout of ``key``; ``find`` gives it with the files that it was read from."""
        stamps, layout = self._known.get(key, (None, None))
        if stamps is not None and all(_stamp(path) == stamp for path, stamp in stamps):
            return layout  # type: ignore[return-value]  # known together with its stamps
        layout, files = find()
        self._known[key] = tuple((path, _stamp(path)) for path in files), layout
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return layout

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Another one as soon as the file is another, or holds something else."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
