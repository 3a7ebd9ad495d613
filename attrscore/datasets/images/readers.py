"""Which formats can be read, and what reads each: the one table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from attrscore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from attrscore.datasets.images.stored import Stored

__all__ = ["READERS", "SUFFIXES", "Choice", "Reader", "reader_of"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of what a file holds is meant."""

    series: int | None = None
    """The image, of a file that holds several; None: there must be one."""
    lone: bool = False
    """Whether a file with one image has that one, whatever ``series`` says."""
    level: int = 0
    """The resolution of an OME-Zarr, 0 the finest."""
    allow_pickle: bool = False
    """Whether a ``_seg.npy`` of Cellpose may be unpickled, which runs code."""

    def of(self, shapes: Sequence[str], name: str, /) -> int:
        """Which of the images that a file called ``name`` holds; ``shapes`` describe them.

        :raises DataError: none, several and no choice, or another number.
        """
        found = "; ".join(f"{number}: {shape}" for number, shape in enumerate(shapes))
        if len(shapes) == 1 and (self.lone or self.series is None):
            return 0
        if not shapes:
            raise DataError(f"'{name}' holds no image.")
        if self.series is None:
            raise DataError(
                f"'{name}' holds {len(shapes)} images ({found}); choose one with dataset.series=0, "
                "or write each to a file of its own."
            )
        if not 0 <= self.series < len(shapes):
            raise DataError(f"series={self.series} is not in '{name}', which holds {found}.")
        return self.series


@dataclass(frozen=True)
class Reader:
    """What reads a format."""

    kind: str
    """What a file of it is called in a sentence."""
    module: str
    function: str
    """``(path, choice) -> Stored``, in that module of this package."""
    package: str = ""
    """What it needs beside the dependencies of attrscore."""
    extra: str = ""
    """The extra of attrscore that brings this package."""

    def __call__(self, path: Path, choice: Choice, /) -> Stored:
        """Open the file; the format's package is imported now.

        :raises ConfigError: the package is not installed.
        """
        try:
            module = import_module(f"attrscore.datasets.images.{self.module}")
            read: Callable[[Path, Choice], Stored] = getattr(module, self.function)
            return read(path, choice)
        except ModuleNotFoundError as error:
            if not self.package or error.name != self.package:
                raise
            raise ConfigError(
                f"'{path.name}' needs the package {self.package}: pip install "
                f"'attrscore[{self.extra}]'"
            ) from error


_TIFF = Reader("TIFF", "tiff", "open_tiff")
_NIFTI = Reader("NIfTI", "formats", "open_nifti", "nibabel", "nifti")

READERS = {
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".png": Reader("PNG", "formats", "open_png"),
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
    ".npy": Reader(".npy", "formats", "open_npy"),
    ".npz": Reader(".npz", "formats", "open_npz"),
    ".zarr": Reader("Zarr", "ngff", "open_ngff", "zarr", "omezarr"),
    ".czi": Reader("CZI", "formats", "open_bioio", "bioio", "bioio"),
    ".nd2": Reader("ND2", "formats", "open_bioio", "bioio", "bioio"),
    ".lif": Reader("LIF", "formats", "open_bioio", "bioio", "bioio"),
}
"""By the ending of the file's name, in letters of any case."""

SUFFIXES = tuple(READERS)


def reader_of(path: Path, /) -> Reader:
    """Of a file, or of a Zarr folder and what lies in it.

    :raises DataError: an ending that is not in the table.
    """
    name = path.name.lower()
    found = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
    if any(folder.suffix.lower() == ".zarr" for folder in path.parents):
        found = ".zarr"
    if found is None:
        raise DataError(
            f"'{path.name}' has an ending that is not known; expected one of {', '.join(SUFFIXES)}."
        )
    return READERS[found]
