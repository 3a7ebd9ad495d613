"""One of n shards of a dataset, so that n jobs share its cells between them.

A cell's shard follows from its own name alone, or from that of the file in which it lies: it is the
same in every run, and cells that join the dataset later move no other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.contracts import Batch, Dataset
from attrscore.errors import ConfigError, EmptyShardError

_OF_THE_WHOLE = ("about", "classes", "left_out", "red_flags", "skipped", "spec")
"""What is the same of a shard as of its dataset."""

_AT_ONCE = 64
"""Cells in memory while the content of a shard is digested."""


@dataclass(frozen=True)
class _Belongs:
    """A value, and no closure, so that datasets which keep one can be sent to other processes."""

    number: int
    total: int

    def __call__(self, name: str, /) -> bool:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.total == self.number


def holds(shard: str, /) -> Callable[[str], bool]:
    """Which names belong to shard ``k/n``, k from 0.

    >>> [name for name in "efgh" if holds("0/2")(name)]
    ['g', 'h']

    :raises ConfigError: not of that form.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", str(shard))
    number, total = (int(found[1]), int(found[2])) if found else (0, 0)
    if number >= total:
        raise ConfigError(
            f"dataset.shard={shard} must be k/n with k from 0 to n - 1; all of two shards: "
            "-m dataset.shard=0/2,1/2."
        )
    return _Belongs(number, total)


def shard_of(dataset: Dataset, shard: str, /) -> Dataset:
    """Shard ``k/n`` of a dataset; nothing of another shard is read from it.

    What lies in one file stays together where the dataset says so, with an attribute
    ``read_together`` that names the column of the file. One with a method ``within`` is
    asked for the files of the shard before it looks into any.

    :raises EmptyShardError: no cell belongs to it.
    """
    belongs = holds(shard)
    within = getattr(dataset, "within", None)
    if within is not None:
        return within(belongs)  # type: ignore[no-any-return]  # of the same class
    units = dataset.table[getattr(dataset, "read_together", "id")].astype(str)
    rows = np.flatnonzero([belongs(unit) for unit in units])
    if not len(rows):
        raise EmptyShardError(f"No cell belongs to shard {shard}.")
    return Shard(dataset, rows)  # type: ignore[return-value]  # a Dataset by its attributes


@dataclass(frozen=True, eq=False)
class Shard:
    """Some rows of a dataset, as a dataset."""

    whole: Dataset
    rows: np.ndarray[Any, Any]
    """Numbers in the table of ``whole``, increasing."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """These rows of the whole table."""
        return self.whole.table.iloc[self.rows].reset_index(drop=True)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_WHOLE:
            return getattr(self.whole, name)
        raise AttributeError(name)

    def read(self, rows: Sequence[int], /) -> Batch:
        """The cells of these rows of the shard."""
        return self.whole.read(self.rows[list(rows)].tolist())

    def fingerprint(self) -> str:
        """Of these rows: as the dataset's ``fingerprint_of`` says, else a digest of them."""
        known = getattr(self.whole, "fingerprint_of", None)
        if known is not None:
            return str(known(self.rows.tolist()))
        digest = hashlib.blake2b(self.table.to_csv(index=False).encode(), digest_size=16)
        digest.update(repr((self.classes, self.spec)).encode())
        for start in range(0, len(self.rows), _AT_ONCE):
            batch = self.read(range(start, min(start + _AT_ONCE, len(self.rows))))
            arrays = {"inputs": batch.inputs, **batch.regions}
            arrays |= {f"others[{number}]": other for number, other in enumerate(batch.others)}
            for name in sorted(arrays):
                values = arrays[name].numpy()
                digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
            digest.update(repr(batch.spacing).encode())
        return digest.hexdigest()
