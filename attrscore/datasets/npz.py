"""Cells from one NPZ file, with the names that :mod:`attrscore.datasets.hdf5` lists.

``classes``, ``spacing`` and ``stains`` are arrays beside the others, as a NPZ has no attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrscore.core.registry import DATASETS
from attrscore.datasets.named import NamedArrays, Opened
from attrscore.errors import DataError

__all__ = ["NPZ"]


@DATASETS.register("npz")
@dataclass(frozen=True, kw_only=True)
class NPZ(NamedArrays):
    """Cells from one file of ``numpy.savez``, with the names of ``dataset=hdf5``.

    ``numpy.savez(path, inputs=x, **{"regions/cell": masks})`` makes the least that is needed. The
    file is in memory as a whole: what is larger belongs into HDF5. Pickled objects are refused.

    ``jitter`` and ``others`` are those of ``dataset=hdf5``.
    """

    @contextmanager
    def _opened(self) -> Iterator[Opened]:
        arrays = self._arrays
        told: dict[str, Any] = {
            name: np.atleast_1d(arrays[name])
            for name in ("classes", "spacing", "stains")
            if name in arrays
        }
        yield Opened(list(arrays), arrays.__getitem__, told)

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        where = Path(self.path).expanduser()
        if not where.is_file():
            raise DataError(f"path='{self.path}' is not a file; give the NPZ file of the cells.")
        try:
            # opened here: numpy leaves a damaged file open
            with where.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file}
        except Exception as error:  # a damaged archive breaks anywhere
            raise DataError(
                f"'{self.path}' cannot be read as a NPZ: {error}; it is damaged, holds Python "
                "objects, or is of another format."
            ) from error
