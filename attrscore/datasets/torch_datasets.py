"""Cells from a torch Dataset, or from a dataset of one's own, that a function returns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pandas as pd

from attrscore.core.code import arguments_of, resolve, working_directory_importable
from attrscore.core.contracts import Batch, InputSpec
from attrscore.core.registry import DATASETS
from attrscore.datasets._options import NothingLeftOut, as_tuples
from attrscore.datasets.batches import as_batch, chosen, stacked
from attrscore.errors import ConfigError, DataError, choose, preview


@DATASETS.register("factory")
@dataclass(frozen=True, kw_only=True)
class DatasetFactory(NothingLeftOut):
    """Cells from what ``target``, a function or class, returns for ``options``.

    It returns a torch Dataset that has a length and gives samples by number, each a tuple (input
    (C, *S), mask of the cell (*S), label) or a dictionary with such keys, ``id`` and ``Metadata_``
    columns among them; ``items`` says otherwise, as for :func:`attrscore.evaluate`. Every sample is
    read once when the dataset is opened, for its label and id. Importing and calling the target
    runs its code.

    A sample that cannot be used is left out with its reason in ``skipped``, unless ``on_bad_file``
    is raise.
    """

    target: str
    """An importable function or class, such as mypackage.data.make."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its keywords."""
    items: tuple[str | None, ...] | Mapping[str, str] | None = None
    """What a sample's items are: null for [inputs,cell,label], or {image: inputs, seg: cell}."""
    class_names: tuple[str, ...] = ()
    """Of the labels, in order; []: the numbers."""
    stains: tuple[str, ...] | None = None
    """Names of the channels."""
    spacing: tuple[float, ...] | None = None
    """Micrometres a pixel along the crop's axes."""
    on_bad_file: Literal["skip", "raise"] = "skip"
    """For a sample that cannot be used."""

    def __post_init__(self) -> None:
        as_tuples(self, "class_names", "stains", "spacing")
        if not isinstance(self.items, Mapping):
            as_tuples(self, "items")
        choose(self.on_bad_file, ("skip", "raise"), option="on_bad_file")

    def __getstate__(self) -> dict[str, Any]:
        # what the target returned is made again in another process
        return {name: value for name, value in self.__dict__.items() if name != "_samples"}

    @property
    def table(self) -> pd.DataFrame:
        """A row a sample that can be used."""
        return self._scanned[0]

    @property
    def classes(self) -> tuple[str, ...]:
        """``class_names``; else the numbers up to the highest label."""
        return self.class_names or tuple(map(str, range(self.spec.classes)))

    @property
    def spec(self) -> InputSpec:
        """Of the first sample; another of another shape is left out."""
        return self._scanned[1]

    @property
    def skipped(self) -> Mapping[str, str]:
        """Sample -> why it is left out."""
        return MappingProxyType(self._scanned[2])

    def read(self, rows: Sequence[int], /) -> Batch:
        """These samples, in this order.

        :raises DataError: samples that do not fit together.
        """
        rows = chosen(rows, len(self.table))
        batch = self._batch([self._scanned[3][row] for row in rows])
        return replace(batch, ids=tuple(self.table["id"].iloc[rows]))

    def fingerprint(self) -> str:
        """Digest of every sample and of what the options say of them."""
        return self._scanned[4]

    @cached_property
    def _samples(self) -> Any:
        with working_directory_importable():
            target = resolve(self.target, makes="torch Dataset")
            arguments = arguments_of(
                target, self.options, known={}, path=self.target, kind="dataset"
            )
            try:
                made = target(**arguments)
            except Exception as error:
                error.add_note(
                    f"while calling {self.target}({', '.join(arguments)}) for dataset 'factory'"
                )
                raise
        if not (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
            raise ConfigError(
                f"{self.target} returned {type(made).__name__}, which has no length and samples by "
                "number; expected a torch.utils.data.Dataset with __len__ and __getitem__. Give an "
                "iterable of batches to attrscore.evaluate instead."
            )
        return made

    def _batch(self, numbers: Sequence[int]) -> Batch:
        samples = [self._samples[number] for number in numbers]
        batch = as_batch(stacked(samples), items=self.items, first=numbers[0] if numbers else 0)
        return replace(batch, stains=self.stains or batch.stains, spacing=self.spacing)

    @cached_property
    def _scanned(
        self,
    ) -> tuple[pd.DataFrame, InputSpec, Mapping[str, str], tuple[int, ...], str]:
        about = repr((self.class_names, self.stains, self.spacing))
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        skipped: dict[str, str] = {}
        rows: list[dict[str, Any]] = []
        kept: dict[str, int] = {}
        shape: tuple[int, ...] | None = None
        for number in range(len(self._samples)):
            try:
                batch = self._batch([number])
                name, found = batch.ids[0], tuple(batch.inputs.shape[1:])
                _check(name, found, kept, shape)
            except Exception as error:  # whatever the user's code raises for a sample
                if self.on_bad_file == "raise":
                    error.add_note(f"in sample {number} of {self.target}")
                    raise
                skipped[f"sample {number}"] = f"{type(error).__name__}: {error}"
                continue
            shape, kept[name] = found, number
            meta = {column: values[0] for column, values in batch.meta.items()}
            rows.append({"id": name, "label": int(batch.label[0]), **meta})
            digest.update(repr(rows[-1]).encode())
            for array in (batch.inputs, *(batch.regions[each] for each in sorted(batch.regions))):
                digest.update(np.ascontiguousarray(array.numpy()).tobytes())
        if shape is None:
            raise DataError(
                f"{self.target} gave no sample that can be used, of {len(self._samples)}. "
                f"{' '.join(list(skipped.values())[:3])}"
            )
        table = pd.DataFrame(rows)
        highest = int(table["label"].max())
        if self.class_names and highest >= len(self.class_names):
            raise DataError(
                f"The labels of {self.target} go up to {highest} but class_names has only "
                f"{len(self.class_names)}: {preview(self.class_names)}."
            )
        classes = len(self.class_names) or highest + 1
        spec = InputSpec(channels=shape[0], size=shape[1:], classes=classes)
        return table, spec, skipped, tuple(kept.values()), digest.hexdigest()


def _check(
    name: str, shape: tuple[int, ...], known: Mapping[str, int], first: tuple[int, ...] | None
) -> None:
    if name in known:
        raise DataError(f"its id '{name}' is that of sample {known[name]} too.")
    if first is not None and shape != first:
        raise DataError(f"its input has the shape {shape}, and those before it {first}.")
