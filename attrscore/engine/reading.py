"""Batches of a dataset in order, and a pool of other cells.

What cannot be read is recorded, and processes may read ahead. The pool is what donors, nulls and
infills are taken from: a fixed draw from the dataset, the same for every batch, worker and resume,
so that no score depends on which cells happen to share a batch.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from attrscore.core.contracts import Batch, Dataset
from attrscore.engine.attribution import declared, frames_of, sentence
from attrscore.engine.preflight import SAMPLE
from attrscore.errors import ConfigError, DataError

__all__ = [
    "Lost",
    "Reader",
    "check_pool",
    "draw_pool",
    "needs_pool",
    "one_readable",
    "readable",
    "those_readable",
]

Lost = dict[int, tuple[str, str]]
"""Row of the dataset that could not be read -> why, and where that was raised."""

_TRIED = 100
"""Cells that are tried before it is said that none can be read."""

_AHEAD = 2
"""Batches that each process reads before they are asked for."""


def readable(dataset: Dataset, rows: Sequence[int], size: int, lost: Lost, /) -> Iterator[Batch]:
    """Batches of these rows; where one cannot be read, of those of its rows that can."""
    for some in _chunks(rows, size):
        yield from _read(dataset, some, lost)


class Reader:
    """Reads as :func:`readable` does, in processes that go ahead of what is asked for.

    The batches, their order and what is lost are the same for any number of processes; with 0
    nothing is read ahead. The processes start at the first batch and end with ``close``. As many
    bytes of crops as there is ``room`` for are kept, and not read again.

    :raises ConfigError: not a number of processes, or a dataset that cannot be sent to one.
    """

    def __init__(self, dataset: Dataset, processes: int = 0) -> None:
        if not isinstance(processes, int) or processes < 0:
            raise ConfigError(f"readers={processes} must be a number of processes, 0 for none.")
        self.dataset, self.processes = dataset, processes
        self._plan: list[Sequence[int]] = []
        self._loader: Any = None
        self.room = 0
        self._kept: dict[tuple[tuple[int, ...], int], tuple[list[Batch], Lost]] = {}

    @cached_property
    def sample(self) -> Batch:
        """The first cells that can be read, for a preflight."""
        return next(readable(self.dataset, range(len(self.dataset.table)), SAMPLE, {}))

    def batches(self, rows: Sequence[int], size: int, lost: Lost, /) -> Iterator[Batch]:
        """Batches of these rows, in order; ``lost`` gains what cannot be read."""
        key = (tuple(rows), size)
        if key in self._kept:
            batches, missing = self._kept[key]
            lost.update(missing)
            yield from batches
            return
        kept: list[Batch] = []
        for batch in self._read(rows, size, lost):
            self.room -= sum(each.nbytes for each in (batch.inputs, *batch.regions.values()))
            kept += [batch] if self.room > 0 else []
            yield batch
        if self.room > 0:
            self._kept[key] = kept, {row: lost[row] for row in rows if row in lost}

    def _read(self, rows: Sequence[int], size: int, lost: Lost) -> Iterator[Batch]:
        if not self.processes:
            yield from readable(self.dataset, rows, size, lost)
            return
        if self._loader is None:
            self._loader = self._started()
        self._plan[:] = _chunks(rows, size)
        for batches, missing in self._read_ahead():
            lost.update(missing)
            yield from batches

    def _read_ahead(self) -> Iterator[tuple[list[Batch], Lost]]:
        try:
            before = signal.getsignal(signal.SIGCHLD)
            reading = iter(self._loader)
            if threading.current_thread() is threading.main_thread():
                # torch's handler would raise in the middle of a method; a read notices all the same
                signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
            yield from reading
        except (BrokenPipeError, ConnectionError, EOFError, RuntimeError) as error:
            # torch says so of its own processes; what they raise begins with "Caught"
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                "A process that read cells ahead was killed, which happens where memory runs out. "
                "What was finished is kept; the same command goes on from there, with readers=0 "
                "in this process alone."
            ) from error

    def close(self) -> None:
        """End the processes."""
        self._loader = None

    def _started(self) -> Any:
        try:
            pickle.dumps(self.dataset)
        except Exception as error:  # pickle raises of every kind
            raise ConfigError(
                f"readers={self.processes} needs a dataset that can be sent to another process, "
                f"and this one cannot: {error}; use readers=0."
            ) from error
        # not forked from this process, whose threads a fork would copy in any state
        known = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
        if "forkserver" in known:
            context.set_forkserver_preload(["attrscore.datasets"])
        return DataLoader(
            _Chunks(self.dataset),  # type: ignore[arg-type]  # a Dataset of torch by its methods
            batch_size=None,
            sampler=self._plan,
            num_workers=self.processes,
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            collate_fn=_as_they_are,
            worker_init_fn=_end_with_main,
            multiprocessing_context=context,
            # else it would draw from the state that methods draw from
            generator=torch.Generator(),
        )


class _Chunks:
    """Rows of a dataset -> their batches, and what was lost, in another process."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, rows: Sequence[int]) -> tuple[list[Batch], Lost]:
        lost: Lost = {}
        return list(_read(self.dataset, rows, lost)), lost


def _end_with_main(_number: int) -> None:
    """End this process when the main one is gone, whatever it waits for then."""
    main = multiprocessing.parent_process()

    def watch() -> None:
        if main is not None:
            main.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_they_are(read: Any) -> Any:
    return read


def _chunks(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _read(dataset: Dataset, rows: Sequence[int], lost: Lost) -> Iterator[Batch]:
    try:
        batch = dataset.read(rows)
    except Exception as error:  # a file that is gone costs its own cells alone
        good = [row for row in rows if _can_read(dataset, row, lost)]
        if not good:
            return
        if len(good) == len(rows):
            raise error  # noqa: TRY201  # each alone, but not together: a bug of the dataset
        batch = dataset.read(good)
    yield batch


def _can_read(dataset: Dataset, row: int, lost: Lost) -> bool:
    try:
        dataset.read([row])
    except Exception as error:  # noqa: BLE001  # becomes a row
        lost[row] = sentence(error), frames_of(error)
        return False
    return True


def needs_pool(plugin: Any, /) -> bool:
    """Whether a method or scorer says, with ``needs_pool = True``, that it takes other cells."""
    return bool(declared(plugin, "needs_pool", default=False))


def draw_pool(dataset: Dataset, size: int = 64, *, seed: int = 0) -> Batch:
    """``size`` cells of a dataset, or all where it has fewer, on the CPU.

    Classes take turns, so that each is there as often as its cells allow; cells without a label
    count as one class. The draw follows from the seed and the order of the table. Cells that cannot
    be read are left out.

    :raises ConfigError: a size below 1.
    """
    if size < 1:
        raise ConfigError(f"pool={size} must be at least 1 cell; 64 is usual.")
    generator = np.random.default_rng(seed)
    labels = dataset.table["label"].to_numpy()
    order = generator.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    chosen = order[np.argsort(turn[order], kind="stable")][:size]
    return those_readable(dataset, chosen.tolist())


def one_readable(dataset: Dataset, /) -> Batch:
    """The first cell that can be read, of the first hundred.

    :raises Exception: what the first raises, if none can.
    """
    rows = range(min(len(dataset.table), _TRIED))
    return dataset.read([next((row for row in rows if _can_read(dataset, row, {})), 0)])


def those_readable(dataset: Dataset, rows: Sequence[int], /) -> Batch:
    """The cells of these rows, without those that cannot be read.

    :raises Exception: what the first raises, if none can.
    """
    try:
        return dataset.read(rows)
    except Exception:  # raised again where no cell can be read
        good = [row for row in rows if _can_read(dataset, row, {})]
        if not good:
            raise
        return dataset.read(good)


def check_pool(pool: Batch, batch: Batch, /) -> None:
    """Whether the cells of a pool can stand in for those of a batch.

    :raises DataError: other channels or another crop.
    """
    if pool.inputs.shape[1:] != batch.inputs.shape[1:]:
        raise DataError(
            f"The crops of the pool are {tuple(pool.inputs.shape[1:])} (C, *S) and those of the "
            f"batch {tuple(batch.inputs.shape[1:])}; expected the same."
        )
