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

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from attrscore.core import Batch, InputSpec
from attrscore.datasets.crops import crop
from attrscore.datasets.jitter import JitterUnit, check_jitter, displacements, jitter_columns
from attrscore.datasets.rows import chosen, to_batch
from attrscore.errors import DataError, did_you_mean, preview
from attrscore.registry import DATASETS

__all__ = ["HDF5", "write_hdf5"]

_BLOCK_BYTES = 16 * 2**20


@DATASETS.register("hdf5")
@dataclass(frozen=True, kw_only=True)
class HDF5:
    """Cells from one HDF5 file with the names that this module's table lists.

    Only the rows asked for are read. Object types and links to other files are refused: a file
    from elsewhere must not make Python objects or open other paths.

    ``jitter`` moves each crop by up to that much along each axis (one number, or one an axis;
    ``jitter_unit`` is pixel or micrometre), drawn from ``jitter_seed`` and the cell's id; what lay
    beyond the crop is not in the file and becomes 0. The columns ``Metadata_jitter_y`` ... say how
    far. ``others`` names arrays of the file, ``[others/0]``, that the network takes after the
    image, in this order.
    """

    path: str
    others: Sequence[str] = ()
    jitter: float | tuple[float, ...] = 0
    jitter_unit: JitterUnit = "pixel"
    jitter_seed: int = 0

    @property
    def table(self) -> pd.DataFrame:
        """Ids, labels and the ``meta`` columns."""
        return self._contents[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """As named in the file; else the numbers up to the highest label."""
        return self._contents[1]

    @property
    def spec(self) -> InputSpec:
        """Of ``inputs``."""
        return self._contents[2]

    @property
    def skipped(self) -> Mapping[str, str]:
        """Nothing: a file is whole or refused."""
        return MappingProxyType({})

    @property
    def left_out(self) -> int:
        """None: no setting excludes a cell."""
        return 0

    def read(self, rows: Sequence[int], /) -> Batch:
        """These rows, in this order; a row may be asked for twice."""
        wanted = chosen(rows, len(self.table))
        # h5py selects increasing rows only
        unique, back = np.unique(wanted, return_inverse=True)
        with _open(self.path) as file:
            inputs = _take(file["inputs"], unique)[back]
            regions = {name: _take(file["regions"][name], unique)[back] for name in file["regions"]}
            others = [_take(file[name], unique)[back] for name in self.others]
        if any(self._most):
            ids = self.table["id"].iloc[wanted].tolist()
            moved = displacements(ids, self._most, seed=self.jitter_seed)
            for values in (inputs, *regions.values()):
                for place, start in enumerate(moved):
                    values[place] = crop(values[place], start, self.spec.size)
        batch = to_batch(
            self.table.iloc[wanted],
            _floating(inputs),
            {name: _region(region) for name, region in regions.items()},
            spacing=self._contents[3],
            stains=self._contents[4],
        )
        further = (_floating(each) if each.dtype.kind == "f" else each for each in others)
        return replace(batch, others=tuple(map(torch.from_numpy, further)))

    def fingerprint(self) -> str:
        """Digest of every array and attribute, read in blocks; not of how they are compressed."""
        digest = hashlib.blake2b(digest_size=16)
        table, classes, _, spacing, stains = self._contents
        told = (classes, spacing, stains) if stains else (classes, spacing)
        digest.update(repr(told).encode() + table.to_csv(index=False).encode())
        with _open(self.path) as file:
            regions = sorted(f"regions/{name}" for name in file["regions"])
            for name in ["inputs", *regions, *self.others]:
                data = file[name]
                digest.update(f"{name} {data.dtype.str} {data.shape}".encode())
                rows = max(1, _BLOCK_BYTES // max(1, data[:1].nbytes))
                for start in range(0, len(data), rows):
                    digest.update(np.ascontiguousarray(data[start : start + rows]).tobytes())
        return digest.hexdigest()

    @cached_property
    def _most(self) -> tuple[int, ...]:
        """Pixels along each axis that a crop may be moved."""
        space, spacing = self._contents[2].size, self._contents[3]
        return check_jitter(self.jitter, self.jitter_unit, size=space, spacing=spacing)

    @cached_property
    def _contents(
        self,
    ) -> tuple[pd.DataFrame, tuple[str, ...], InputSpec, tuple[float, ...] | None, tuple[str, ...]]:
        with _open(self.path) as file:
            _check_links(file, self.path)
            shape = _dataset(file, "inputs", self.path).shape
            if len(shape) not in (4, 5):
                raise DataError(
                    f"'inputs' of '{self.path}' has the shape {shape}; expected (N, C, Y, X) or "
                    "(N, C, Z, Y, X)."
                )
            n, space = shape[0], shape[2:]
            if n == 0:
                raise DataError(f"'inputs' of '{self.path}' holds no cell; expected at least one.")
            _dataset(file, "regions/cell", self.path)
            for name in file["regions"]:
                _expect(_dataset(file, f"regions/{name}", self.path), (n, *space), self.path)
            for name in self.others:
                further = _dataset(file, name, self.path)
                _expect(further, (n, *further.shape[1:]), self.path)
            columns: dict[str, Any] = {
                "id": [str(value) for value in self._column(file, "ids", n)]
                if "ids" in file
                else [str(row) for row in range(n)],
                "label": self._column(file, "label", n)
                if "label" in file
                else np.full(n, -1, np.int64),
            }
            for name in file.get("meta", ()):
                columns[name] = self._column(file, f"meta/{name}", n)
            classes = tuple(_text(value) for value in file.attrs.get("classes", ()))
            spacing = tuple(float(value) for value in file.attrs.get("spacing", ())) or None
            stains = tuple(_text(value) for value in file.attrs.get("stains", ()))
        labels = np.asarray(columns["label"])
        if labels.dtype.kind not in "iu" or int(labels.min()) < -1:
            raise DataError(
                f"'label' of '{self.path}' must be whole numbers, -1 where unknown; given: "
                f"{labels.dtype} from {labels.min()}."
            )
        classes = classes or tuple(str(number) for number in range(int(labels.max()) + 1))
        if int(labels.max()) >= len(classes):
            raise DataError(
                f"'label' of '{self.path}' goes up to {labels.max()} but only {len(classes)} "
                f"classes are named: {preview(classes)}."
            )
        if len(set(columns["id"])) < n:
            raise DataError(f"'ids' of '{self.path}' holds names twice; expected each once.")
        table = pd.DataFrame(columns).astype({"label": np.int64})
        most = check_jitter(self.jitter, self.jitter_unit, size=space, spacing=spacing)
        if any(most):
            moved = displacements(table["id"].tolist(), most, seed=self.jitter_seed)
            table = table.assign(**jitter_columns(moved))
        return table, classes, InputSpec(shape[1], space, len(classes)), spacing, stains

    def _column(self, file: h5py.File, name: str, n: int) -> np.ndarray[Any, Any]:
        data = _dataset(file, name, self.path)
        _expect(data, (n,), self.path)
        if data.dtype.kind in "OS":
            return np.array([_text(value) for value in data[()]], dtype=object)
        return np.asarray(data[()])


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
    known: list[str] = []
    file.visititems(lambda key, item: known.append(key) if isinstance(item, h5py.Dataset) else None)
    if name not in known:
        raise DataError(f"'{path}' has no dataset '{name}'. {did_you_mean(name, known)}")
    data = file[name]
    if data.external or data.is_virtual:
        raise DataError(
            f"'{name}' of '{path}' keeps its data in other files; copy them into this one."
        )
    kind = data.dtype.kind
    text = kind in "SO" and h5py.check_string_dtype(data.dtype) is not None
    column = name == "ids" or name.startswith("meta/")
    if not (kind in "biuf" or (text and column)):
        allowed = "numbers or text" if column else "numbers"
        raise DataError(f"'{name}' of '{path}' is of the type {data.dtype}; expected {allowed}.")
    return data


def _expect(data: h5py.Dataset, shape: tuple[int, ...], path: str) -> None:
    if data.shape != shape:
        raise DataError(
            f"'{data.name.lstrip('/')}' of '{path}' has the shape {data.shape}; expected {shape}, "
            "to fit 'inputs'."
        )


def _take(data: h5py.Dataset, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if not rows.size:
        return np.empty((0, *data.shape[1:]), data.dtype)
    # one slice is many times faster than h5py's selection of points
    if int(rows[-1]) - int(rows[0]) + 1 == rows.size:
        return np.asarray(data[int(rows[0]) : int(rows[-1]) + 1])
    return np.asarray(data[rows])


def _floating(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(values, np.float64 if values.dtype == np.float64 else np.float32)


def _region(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bool stays, 0 and 1 in integers become bool, fractions stay fractions."""
    if values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() <= 1:
        return values.astype(bool)
    return values if values.dtype.kind == "b" else values.astype(np.float32)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
