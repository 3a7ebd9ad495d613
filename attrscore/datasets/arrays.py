"""Cells from one file of named arrays, HDF5 or NPZ, and the function that writes such an HDF5."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from attrscore.core.contracts import Batch, InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets._options import NothingLeftOut
from attrscore.datasets.batches import chosen, to_batch
from attrscore.datasets.cells.crops import crop
from attrscore.datasets.cells.geometry import (
    JitterUnit,
    check_jitter,
    displacements,
    jitter_columns,
)
from attrscore.errors import AbsentError, DataError, did_you_mean, preview

_BLOCK_BYTES = 16 * 2**20

_MOST, _SLACK = 1032, 2**17
"""Deflate makes data at most that many times smaller: what claims more bytes, beside a few that may
stay unwritten, is forged."""

_UNPACKED, _TIMES = 2**30, 64
"""Bytes that a NPZ may hold whatever its size, and how many times its size beyond."""


@dataclass(frozen=True, eq=False)
class Opened:
    """The arrays of an open file."""

    names: Collection[str]
    get: Callable[[str], Any]
    """By name; what it gives has a shape and a dtype and can be sliced. Text is of kind O, S, U."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """``classes``, ``spacing`` and ``stains``, where the file has them."""

    def under(self, prefix: str, /) -> list[str]:
        """The names that begin so, sorted."""
        return sorted(name for name in self.names if name.startswith(prefix))


@dataclass(frozen=True, eq=False)
class _Contents:
    """What a file says beside its pixels."""

    table: pd.DataFrame
    classes: tuple[str, ...]
    spec: InputSpec
    spacing: tuple[float, ...] | None
    stains: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NamedArrays(NothingLeftOut):
    """Cells of one file; a subclass says how it is opened (``_opened``)."""

    path: str
    """A file of inputs (N, C, *S), regions/cell (N, *S); label, ids, meta/<column> (N,)."""
    others: Sequence[str] = ()
    """Arrays (N, ...) that the model takes after the image, in this order: [others/0]."""
    jitter: float | tuple[float, ...] = 0
    """Most that a crop is moved, zeros moving in: a number, or one an axis."""
    jitter_unit: JitterUnit = "pixel"
    """The unit of jitter."""
    jitter_seed: int = 0
    """Of jitter; how far a cell moves follows from it and the id alone."""

    @property
    def table(self) -> pd.DataFrame:
        """Ids, labels and the ``meta`` columns."""
        return self._contents.table

    @property
    def classes(self) -> tuple[str, ...]:
        """As named in the file; else the numbers up to the highest label."""
        return self._contents.classes

    @property
    def spec(self) -> InputSpec:
        """Of ``inputs``."""
        return self._contents.spec

    def read(self, rows: Sequence[int], /) -> Batch:
        """These rows, in this order; a row may be asked for twice."""
        wanted = chosen(rows, len(self.table))
        # h5py selects increasing rows only
        unique, back = np.unique(wanted, return_inverse=True)
        with self._opened() as file:
            inputs = _take(file.get("inputs"), unique)[back]
            regions = {
                name.removeprefix("regions/"): _take(file.get(name), unique)[back]
                for name in file.under("regions/")
            }
            others = [_take(file.get(name), unique)[back] for name in self.others]
        if any(self._most):
            ids = self.table["id"].iloc[wanted].tolist()
            moved = displacements(ids, self._most, seed=self.jitter_seed)
            for values in (inputs, *regions.values()):
                for index, start in enumerate(moved):
                    values[index] = crop(values[index], start, self.spec.size)
        batch = to_batch(
            self.table.iloc[wanted],
            _floating(inputs),
            {name: _region(region) for name, region in regions.items()},
            spacing=self._contents.spacing,
            stains=self._contents.stains,
        )
        further = (_floating(each) if each.dtype.kind == "f" else each for each in others)
        return replace(batch, others=tuple(map(torch.from_numpy, further)))

    def fingerprint(self) -> str:
        """Digest of every array and attribute, read in blocks; not of how they are compressed."""
        digest = hashlib.blake2b(digest_size=16)
        found = self._contents
        about = (found.classes, found.spacing, *([found.stains] if found.stains else []))
        digest.update(repr(about).encode() + found.table.to_csv(index=False).encode())
        with self._opened() as file:
            for name in ["inputs", *file.under("regions/"), *self.others]:
                data = file.get(name)
                digest.update(f"{name} {data.dtype.str} {data.shape}".encode())
                rows = max(1, _BLOCK_BYTES // max(1, data[:1].nbytes))
                for start in range(0, len(data), rows):
                    digest.update(np.ascontiguousarray(data[start : start + rows]).tobytes())
        return digest.hexdigest()

    @cached_property
    def _most(self) -> tuple[int, ...]:
        """Pixels along each axis that a crop may be moved."""
        found = self._contents
        return check_jitter(
            self.jitter, self.jitter_unit, size=found.spec.size, spacing=found.spacing
        )

    @cached_property
    def _contents(self) -> _Contents:
        with self._opened() as file:
            shape = self._numbers(file, "inputs").shape
            if len(shape) not in (4, 5):
                raise DataError(
                    f"'inputs' of '{self.path}' has the shape {shape}; expected (N, C, Y, X) or "
                    "(N, C, Z, Y, X)."
                )
            n, space = shape[0], shape[2:]
            if n == 0:
                raise DataError(f"'inputs' of '{self.path}' holds no cell; expected at least one.")
            self._numbers(file, "regions/cell")
            for name in file.under("regions/"):
                self._expect(self._numbers(file, name), name, (n, *space))
            for name in self.others:
                further = self._numbers(file, name)
                self._expect(further, name, (n, *further.shape[1:]))
            columns: dict[str, Any] = {
                "id": [str(value) for value in self._column(file, "ids", n)]
                if "ids" in file.names
                else [str(row) for row in range(n)],
                "label": self._column(file, "label", n)
                if "label" in file.names
                else np.full(n, -1, np.int64),
            }
            for name in file.under("meta/"):
                columns[name.removeprefix("meta/")] = self._column(file, name, n)
            classes = tuple(_text(value) for value in file.attributes.get("classes", ()))
            spacing = tuple(float(value) for value in file.attributes.get("spacing", ())) or None
            stains = tuple(_text(value) for value in file.attributes.get("stains", ()))
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
        return _Contents(table, classes, InputSpec(shape[1], space, len(classes)), spacing, stains)

    def _opened(self) -> AbstractContextManager[Opened]:
        """The arrays of the file, while it is open; each format has its own."""
        raise NotImplementedError

    def _numbers(self, file: Opened, name: str) -> Any:
        return self._array(file, name, kinds="biuf", expected="numbers")

    def _array(self, file: Opened, name: str, *, kinds: str, expected: str) -> Any:
        if name not in file.names:
            raise DataError(
                f"'{self.path}' has no array '{name}'. {did_you_mean(name, file.names)}"
            )
        data = file.get(name)
        if data.dtype.kind not in kinds:
            raise DataError(
                f"'{name}' of '{self.path}' is of the type {data.dtype}; expected {expected}."
            )
        return data

    def _column(self, file: Opened, name: str, n: int) -> np.ndarray[Any, Any]:
        kinds, expected = ("biuf", "numbers") if name == "label" else ("biufSUO", "numbers or text")
        data = self._array(file, name, kinds=kinds, expected=expected)
        self._expect(data, name, (n,))
        if data.dtype.kind in "SUO":
            return np.array([_text(value) for value in data[()]], dtype=object)
        return np.asarray(data[()])

    def _expect(self, data: Any, name: str, shape: tuple[int, ...]) -> None:
        if data.shape != shape:
            raise DataError(
                f"'{name}' of '{self.path}' has the shape {data.shape}; expected {shape}, to fit "
                "'inputs'."
            )


@DATASETS.register("hdf5")
@dataclass(frozen=True, kw_only=True)
class HDF5(NamedArrays):
    """Cells from one HDF5 file whose arrays and attributes have these names.

    =================== ==================== ======================================================
    name                shape                holds
    =================== ==================== ======================================================
    ``inputs``          (N, C, *S)           real numbers; required
    ``regions/<name>``  (N, *S)              bool, or within [0, 1]; ``regions/cell`` is required
    ``label``           (N,)                 integers, -1 where unknown
    ``ids``             (N,)                 text, each once
    ``meta/<column>``   (N,)                 numbers or text, carried to the results
    ``others/<number>`` (N, ...)             further inputs of a model, as ``others`` may name them
    ``@spacing``        as many as *S        attribute of the file: micrometres a voxel
    ``@classes``        as many as classes   attribute of the file: their names
    ``@stains``         C                    attribute of the file: names of the channels
    =================== ==================== ======================================================

    Only the rows asked for are read. Object types and links to other files are refused: a file
    from elsewhere must not make Python objects or open other paths.

    What lies beyond a crop that ``jitter`` moves is not in the file and becomes 0. The columns
    ``Metadata_jitter_y`` ... say how far it was moved.
    """

    @contextmanager
    def _opened(self) -> Iterator[Opened]:
        with _open(self.path) as file:
            _check_links(file, self.path)
            names: list[str] = []
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
            attributes = {
                name: file.attrs[name]
                for name in ("classes", "spacing", "stains")
                if name in file.attrs
            }
            yield Opened(names, lambda name: _dataset(file, name, self.path), attributes)


@DATASETS.register("npz")
@dataclass(frozen=True, kw_only=True)
class NPZ(NamedArrays):
    """Cells from one file of ``numpy.savez``, with the names of ``dataset=hdf5``.

    ``classes``, ``spacing`` and ``stains`` are arrays beside the others, as it has no attributes.

    ``numpy.savez(path, inputs=x, **{"regions/cell": masks})`` makes the least that is needed. Its
    arrays are in memory as a whole: what is larger belongs into HDF5. Pickled objects are refused,
    and so is what unpacks to far more than its size.
    """

    @contextmanager
    def _opened(self) -> Iterator[Opened]:
        names = self._names
        attributes: dict[str, Any] = {
            name: np.atleast_1d(self._array_of(name))
            for name in ("classes", "spacing", "stains")
            if name in names
        }
        yield Opened(names, self._array_of, attributes)

    @cached_property
    def _names(self) -> list[str]:
        with self._archive() as file:
            unpacked = sum(each.file_size for each in file.zip.infolist())
            size = Path(self.path).expanduser().stat().st_size
            if unpacked > max(_UNPACKED, _TIMES * size):
                raise DataError(
                    f"'{self.path}' of {size} bytes unpacks to {unpacked}, which would all be in "
                    "memory; write the cells as HDF5, which is read row by row."
                )
            return list(file)

    @cached_property
    def _kept(self) -> dict[str, NDArray[Any]]:
        return {}

    def _array_of(self, name: str) -> NDArray[Any]:
        if name not in self._kept:
            with self._archive() as file:
                self._kept[name] = file[name]
        return self._kept[name]

    @contextmanager
    def _archive(self) -> Iterator[Any]:
        where = Path(self.path).expanduser()
        if not where.is_file():
            raise AbsentError(f"path='{self.path}' is not a file; give the NPZ file of the cells.")
        try:
            # opened here: numpy leaves a damaged file open
            with where.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                yield file
        except DataError:
            raise
        except Exception as error:  # a damaged archive breaks anywhere
            raise DataError(
                f"'{self.path}' cannot be read as a NPZ: {error}; it is damaged, holds Python "
                "objects, or is of another format."
            ) from error


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
    from attrscore.store.commit import new_file  # here, so that reading loads no pandas

    with new_file(path) as aside, h5py.File(aside, "w") as file:
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
            for number, other in enumerate(batch.others):
                arrays[f"others/{number}"] = other.detach().cpu().numpy()
            _append(file, arrays)
            if meta is None:
                meta = {name: [] for name in batch.meta}
                spacing, stains = batch.spacing, batch.stains
            first, mine = (spacing, stains), (batch.spacing, batch.stains)
            if set(meta) != set(batch.meta) or first != mine:
                raise DataError(
                    "All batches of a file need the same meta columns, spacing and stains; "
                    f"given: {preview(meta)} with {first}, then {preview(batch.meta)} with "
                    f"{mine}."
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
        raise AbsentError(f"path='{path}' is not a file; give the HDF5 file of the cells.")
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
    claimed = data.size * data.dtype.itemsize
    # a region that was never written is all 0, and is read by row
    if not name.startswith("regions/") and claimed > _MOST * data.id.get_storage_size() + _SLACK:
        raise DataError(
            f"'{name}' of '{path}' claims {claimed} bytes, more than the file can hold: it was "
            "never written whole, or forged."
        )
    return data


def _take(data: Any, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
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
