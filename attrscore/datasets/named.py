"""Cells from arrays that have names, whatever file they lie in: HDF5 or NPZ."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch

from attrscore.core.contracts import Batch, InputSpec
from attrscore.datasets.crops import crop
from attrscore.datasets.jitter import JitterUnit, check_jitter, displacements, jitter_columns
from attrscore.datasets.rows import chosen, to_batch
from attrscore.errors import DataError, did_you_mean, preview

__all__ = ["NamedArrays", "Opened"]

_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Opened:
    """The arrays of an open file."""

    names: Collection[str]
    get: Callable[[str], Any]
    """By name; what it gives has a shape and a dtype and can be sliced. Text is of kind O, S, U."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """``classes``, ``spacing`` and ``stains``, where the file has them."""

    def under(self, prefix: str, /) -> list[str]:
        """The names that begin so, sorted."""
        return sorted(name for name in self.names if name.startswith(prefix))


@dataclass(frozen=True, kw_only=True)
class NamedArrays:
    """A dataset of one file; a subclass says how it is opened (``_opened``)."""

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
        space, spacing = self._contents[2].size, self._contents[3]
        return check_jitter(self.jitter, self.jitter_unit, size=space, spacing=spacing)

    @cached_property
    def _contents(
        self,
    ) -> tuple[pd.DataFrame, tuple[str, ...], InputSpec, tuple[float, ...] | None, tuple[str, ...]]:
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
            classes = tuple(_text(value) for value in file.told.get("classes", ()))
            spacing = tuple(float(value) for value in file.told.get("spacing", ())) or None
            stains = tuple(_text(value) for value in file.told.get("stains", ()))
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

    def _opened(self) -> AbstractContextManager[Opened]:
        """The arrays of the file, while it is open."""
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
