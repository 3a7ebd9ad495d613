"""Cells from one HDF5 file, read row by row, and the function that writes such a file.

=================== ==================== =========================================================
name                shape                holds
=================== ==================== =========================================================
``inputs``          (N, C, *S)           real numbers; required
``regions/<name>``  (N, *S)              bool, or within [0, 1]; ``regions/cell`` is required
``label``           (N,)                 integers, -1 where unknown
``ids``             (N,)                 text, each once
``meta/<column>``   (N,)                 numbers or text, carried to the results
``others/<place>``  (N, ...)             further inputs of a network, as ``others`` may name them
``@spacing``        as many as *S        attribute of the file: micrometres a voxel
``@classes``        as many as classes   attribute of the file: their names
``@stains``         C                    attribute of the file: names of the channels
=================== ==================== =========================================================
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from attrscore.core.contracts import Batch
from attrscore.core.registry import DATASETS
from attrscore.datasets.named import NamedArrays, Opened
from attrscore.errors import DataError, preview

__all__ = ["HDF5", "write_hdf5"]


@DATASETS.register("hdf5")
@dataclass(frozen=True, kw_only=True)
class HDF5(NamedArrays):
    """Cells from one HDF5 file with the names that this module's table lists.

    Only the rows asked for are read. Object types and links to other files are refused: a file
    from elsewhere must not make Python objects or open other paths.

    ``jitter`` moves each crop by up to that much along each axis (one number, or one an axis;
    ``jitter_unit`` is pixel or micrometre), drawn from ``jitter_seed`` and the cell's id; what lay
    beyond the crop is not in the file and becomes 0. The columns ``Metadata_jitter_y`` ... say how
    far. ``others`` names arrays of the file, ``[others/0]``, that the network takes after the
    image, in this order.
    """

    @contextmanager
    def _opened(self) -> Iterator[Opened]:
        with _open(self.path) as file:
            _check_links(file, self.path)
            names: list[str] = []
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
            told = {
                name: file.attrs[name]
                for name in ("classes", "spacing", "stains")
                if name in file.attrs
            }
            yield Opened(names, lambda name: _dataset(file, name, self.path), told)


def write_hdf5(
    path: str | Path,
    batches: Iterable[Batch],
    /,
    *,
    classes: Sequence[str] = (),
) -> None:
    """Write batches to a file that ``dataset=hdf5`` reads, one batch at a time in memory.

    An existing file is replaced only once the new one is whole.

    :raises DataError: no batch, or batches that differ in shape, regions, columns or spacing.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with h5py.File(partial, "w") as file:
            file.attrs["classes"] = np.array(list(classes), dtype=h5py.string_dtype())
            ids: list[str] = []
            labels: list[int] = []
            meta: dict[str, list[Any]] | None = None
            spacing: tuple[float, ...] | None = None
            stains: tuple[str, ...] = ()
            for batch in batches:
                arrays = {"inputs": batch.inputs.detach().cpu().numpy()}
                for name, region in batch.regions.items():
                    arrays[f"regions/{name}"] = region.detach().cpu().numpy()
                for place, other in enumerate(batch.others):
                    arrays[f"others/{place}"] = other.detach().cpu().numpy()
                _append(file, arrays)
                if meta is None:
                    meta = {name: [] for name in batch.meta}
                    spacing, stains = batch.spacing, batch.stains
                told = (spacing, stains), (batch.spacing, batch.stains)
                if set(meta) != set(batch.meta) or told[0] != told[1]:
                    raise DataError(
                        "All batches of a file need the same meta columns, spacing and stains; "
                        f"given: {preview(meta)} with {told[0]}, then {preview(batch.meta)} with "
                        f"{told[1]}."
                    )
                for name, values in batch.meta.items():
                    meta[name].extend(values)
                ids.extend(batch.ids)
                labels.extend(batch.label.tolist())
            if meta is None:
                raise DataError("No batch was given; a file needs at least one cell.")
            if len(set(ids)) < len(ids):
                raise DataError("Some ids stand in more than one batch; expected each once.")
            file["label"] = np.array(labels, np.int64)
            file.create_dataset("ids", data=ids, dtype=h5py.string_dtype())
            for name, values in meta.items():
                column = np.array(values)
                if column.dtype.kind in "OU":
                    text = [str(value) for value in values]
                    file.create_dataset(f"meta/{name}", data=text, dtype=h5py.string_dtype())
                else:
                    file[f"meta/{name}"] = column
            if spacing is not None:
                file.attrs["spacing"] = spacing
            if stains:
                file.attrs["stains"] = np.array(stains, dtype=h5py.string_dtype())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _append(file: h5py.File, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    groups = ("regions", "others")
    given = {"inputs", *(f"{group}/{name}" for group in groups for name in file.get(group, ()))}
    if "inputs" in file and given != set(arrays):
        raise DataError(
            "All batches of a file need the same regions and further inputs; given: "
            f"{preview(sorted(given))}, then {preview(sorted(arrays))}."
        )
    for name, values in arrays.items():
        if name not in file:
            file.create_dataset(
                name,
                data=values,
                maxshape=(None, *values.shape[1:]),
                chunks=(1, *values.shape[1:]),  # a cell is what is read at once
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
            continue
        data = file[name]
        if data.shape[1:] != values.shape[1:]:
            raise DataError(
                f"All batches of a file need the same shape; '{name}' has {data.shape[1:]} a cell, "
                f"then {values.shape[1:]}."
            )
        start = len(data)
        data.resize(start + len(values), axis=0)
        data[start:] = values


@contextmanager
def _open(path: str) -> Iterator[h5py.File]:
    where = Path(path).expanduser()
    if not where.is_file():
        raise DataError(f"path='{path}' is not a file; give the HDF5 file of the cells.")
    try:
        file = h5py.File(where, "r")
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read as HDF5: {error}; it is damaged, being written, or of "
            "another format."
        ) from error
    with file:
        yield file


def _check_links(group: h5py.Group, path: str) -> None:
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise DataError(
                f"'{group.name.rstrip('/')}/{name}' of '{path}' is a link, not data of this file; "
                "copy what it points to into the file."
            )
        if name in ("regions", "meta", "others") and isinstance(group[name], h5py.Group):
            _check_links(group[name], path)


def _dataset(file: h5py.File, name: str, path: str) -> h5py.Dataset:
    data = file[name]
    if data.external or data.is_virtual:
        raise DataError(
            f"'{name}' of '{path}' keeps its data in other files; copy them into this one."
        )
    if data.dtype.kind == "O" and h5py.check_string_dtype(data.dtype) is None:
        raise DataError(
            f"'{name}' of '{path}' is of the type {data.dtype}; expected numbers or text."
        )
    return data
