"""Batches from table rows, and from what a notebook has: tuples, a DataLoader, a torch Dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from attrscore.core.contracts import Batch
from attrscore.errors import DataError, did_you_mean, preview

AT_ONCE = 32
"""Samples of a torch Dataset that become a batch, unless something else is asked for."""

Data = Batch | Mapping[str, Any] | Iterable[Any] | TorchDataset[Any]
"""What :func:`batches_from` takes."""

Items = Sequence[str | None] | Mapping[str, str] | None
"""What the items of a tuple are, in order (None: not needed), or the keys of a dictionary by their
own name."""

TUPLE = ("inputs", "cell", "label")
_REGIONS = ("cell", "neighbours", "nucleus", "cytoplasm", "boundary")
_FIELDS = ("inputs", "regions", "label", "ids", "meta", "spacing", "others", "stains")


def batches_from(
    data: Any, /, *, items: Items = None, batch_size: int = AT_ONCE
) -> Iterator[Batch]:
    """Batches of ``data``: a batch, an iterable of batches, or a torch Dataset of single samples.

    A batch is a :class:`Batch`, a tuple (inputs, masks of the cells, labels), of
    which the last may be left out, or a dictionary with the fields of a Batch, regions by their
    name and ``Metadata_`` columns. ``items`` says otherwise: ``("inputs", "label", "cell")``, or
    ``{"image": "inputs", "seg": "cell"}``, which leaves out every other key. Cells without ids are
    numbered from 0.

    :raises DataError: something else, or what does not fit together, with the batch's number.
    """
    if isinstance(data, TorchDataset):
        data = DataLoader(data, batch_size=batch_size)
    if not (items is None or isinstance(items, Mapping | tuple | list)):
        raise DataError(
            f"items={items!r} must say what each item of a batch is: ('inputs', 'cell', 'label'), "
            "or a dictionary from its keys to attrscore's names."
        )
    try:
        given = iter([data] if _is_batch(data) else data)
    except TypeError:
        raise DataError(
            f"{data!r} holds no batches; give a dataset, a batch, or an iterable of batches."
        ) from None
    first = 0
    for number, item in enumerate(given):
        if isinstance(item, Batch):
            batch = item
        else:
            try:
                batch = as_batch(item, items=items, first=first)
            except DataError as error:
                error.add_note(f"in batch {number}")
                raise
        first += len(batch)
        yield batch


def how_many(data: Data, /, *, batch_size: int = AT_ONCE) -> int | None:
    """Batches that :func:`batches_from` gives, where that can be known."""
    if _is_batch(data):
        return 1
    if not isinstance(data, Sized):
        return None
    return -(-len(data) // batch_size) if isinstance(data, TorchDataset) else len(data)


def as_batch(item: Any, /, *, items: Items = None, first: int = 0) -> Batch:
    """One batch of a tuple or a dictionary; cells without ids are numbered from ``first``.

    >>> as_batch((np.ones((2, 1, 4, 4)), np.ones((2, 4, 4), bool), [0, 1]), first=8).ids
    ('8', '9')
    """
    named = _named(item, items)
    if "inputs" not in named:
        raise DataError(f"A batch needs inputs; given: {preview(named) or 'nothing'}.")
    inputs = _tensor(named.pop("inputs"), "inputs")
    inputs = inputs if inputs.is_floating_point() else inputs.float()
    regions = {name: named.pop(name) for name in [*named] if name in _REGIONS}
    regions = {**(named.pop("regions", None) or {}), **regions}
    meta = {name: named.pop(name) for name in [*named] if str(name).startswith("Metadata_")}
    meta = {**(named.pop("meta", None) or {}), **meta}
    if named.get("label") is not None:
        named["label"] = _labels(named["label"])
    if named.get("spacing") is not None:
        named["spacing"] = _spacing(named["spacing"])
    ids = named.pop("ids", None)
    others = named.pop("others", None)
    return Batch(
        inputs=inputs,
        regions={name: _region(value, name, inputs) for name, value in regions.items()},
        ids=_listed(ids) if ids is not None else range(first, first + len(inputs)),  # type: ignore[arg-type]
        meta={name: _listed(values) for name, values in meta.items()},
        others=tuple(_tensor(other, "others") for other in others or ()),
        **{name: value for name, value in named.items() if value is not None},
    )


def stacked(samples: Sequence[Any], /) -> Any:
    """Single samples as one batch, as torch's DataLoader stacks them.

    :raises DataError: samples of different shapes or kinds.
    """
    try:
        return default_collate(list(samples))
    except (TypeError, RuntimeError, KeyError) as error:
        raise DataError(
            f"The samples cannot be stacked: {str(error).splitlines()[0]}; expected tuples or "
            "dictionaries of arrays that have the same shape in each."
        ) from error


def chosen(rows: Sequence[int], total: int, /) -> list[int]:
    """Row numbers as whole numbers.

    :raises DataError: one that does not exist, named.
    """
    numbers = [int(row) for row in rows]
    outside = [row for row in numbers if not 0 <= row < total]
    if outside:
        raise DataError(f"Row {outside[0]} does not exist; rows are 0 to {total - 1}.")
    return numbers


def to_batch(
    table: pd.DataFrame | Mapping[str, np.ndarray[Any, Any]],
    inputs: np.ndarray[Any, Any],
    regions: Mapping[str, np.ndarray[Any, Any]],
    *,
    spacing: tuple[float, ...] | None = None,
    stains: tuple[str, ...] = (),
) -> Batch:
    """A batch of ``inputs`` (N, C, *S) and ``regions`` (N, *S), with N rows of a table beside it.

    The table may also be given as its columns. All columns but ``id`` and ``label`` are carried.
    """
    columns: Mapping[str, Any] = {str(name): table[name] for name in table}  # type: ignore[index]  # either
    return Batch(
        inputs=torch.from_numpy(inputs),
        regions={name: torch.from_numpy(region) for name, region in regions.items()},
        label=torch.tensor(np.array(columns["label"], np.int64)),
        ids=tuple(columns["id"]),
        meta={
            name: values.tolist() for name, values in columns.items() if name not in ("id", "label")
        },
        spacing=spacing,
        stains=stains,
    )


def _is_batch(data: Any) -> bool:
    arrays = isinstance(data, tuple) and bool(data) and isinstance(data[0], Tensor | np.ndarray)
    return isinstance(data, Batch | Mapping) or arrays


def _named(item: Any, items: Items) -> dict[str, Any]:
    if isinstance(item, Mapping):
        if isinstance(items, Mapping):
            absent = [key for key in items if key not in item]
            if absent:
                raise DataError(
                    f"items names '{absent[0]}', which the batch has not. "
                    f"{did_you_mean(absent[0], item)}"
                )
            return _known({new: item[key] for key, new in items.items()})
        if items is not None:
            raise DataError(
                f"items={items} is an order, but the batch is a dictionary with the keys "
                f"{preview(item)}; give a dictionary from these to attrscore's names."
            )
        return _known(dict(item))
    if isinstance(item, tuple | list):
        order = TUPLE if items is None else tuple(items)
        if isinstance(items, Mapping) or len(item) > len(order):
            raise DataError(
                f"The batch is a tuple of {len(item)}; say what each item is with "
                "items=('inputs', 'cell', 'label'), None for one that is not needed."
            )
        pairs = zip(order, item, strict=False)
        return _known({name: value for name, value in pairs if name is not None})
    raise DataError(
        f"A batch is {type(item).__name__}; expected an attrscore.Batch, a tuple (inputs, masks, "
        "labels) or a dictionary with the keys inputs, cell and label."
    )


def _known(named: dict[str, Any]) -> dict[str, Any]:
    if "id" in named and "ids" not in named:
        named["ids"] = named.pop("id")
    for name in named:
        if name not in (*_FIELDS, *_REGIONS) and not str(name).startswith("Metadata_"):
            known = (*_FIELDS, *_REGIONS)
            raise DataError(
                f"'{name}' is nothing that a batch has. {did_you_mean(name, known)} Say what it is "
                f"with items={{'{name}': 'cell'}}, or leave it out there."
            )
    return named


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be numbers; given: {type(value).__name__} of {array.dtype}.")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch knows few operations on wider unsigned numbers
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _region(value: Any, name: str, inputs: Tensor) -> Tensor:
    """(N, *S), bool where it holds 0 and 1; an axis of one channel is dropped."""
    region = _tensor(value, f"region '{name}'")
    if region.ndim == inputs.ndim and region.shape[1] == 1:
        region = region[:, 0]
    if region.ndim != inputs.ndim - 1:
        raise DataError(
            f"region '{name}' has the shape {tuple(region.shape)}, and the inputs "
            f"{tuple(inputs.shape)}; expected one mask a cell. If the order of the items is "
            "another, say so: items=('inputs', 'label', 'cell')."
        )
    whole = not region.is_floating_point() and region.numel() > 0 and region.dtype != torch.bool
    return region.bool() if whole and 0 <= int(region.min()) <= int(region.max()) <= 1 else region


def _spacing(value: Any) -> tuple[float, ...]:
    """Of the whole batch; samples that each say it are stacked, and must agree."""
    each = [np.unique(np.asarray(axis)) for axis in value]
    if any(len(found) != 1 or found.dtype.kind not in "iuf" for found in each):
        raise DataError(
            f"spacing must be one number of micrometres an axis, the same for all cells of a "
            f"batch; given: {value}."
        )
    return tuple(float(found[0]) for found in each)


def _labels(value: Any) -> Tensor:
    labels = _tensor(value, "label")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels


def _listed(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
