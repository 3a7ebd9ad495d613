"""How much memory work takes, and what to do when it runs out: go on with fewer cells at once."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from attrscore.core.contracts import Batch
from attrscore.errors import AttrscoreWarning

__all__ = [
    "Gauge",
    "Room",
    "count_anew",
    "higher",
    "peak",
]


def count_anew() -> None:
    """Forget the peak so far. Only Linux can; elsewhere it stays that of the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes in memory since then."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


MIB = 2**20


@dataclass
class Room:
    """How many cells there is memory for at once: as many as come, until it runs out.

    Give one object to several runs, and the later ones start with what the earlier ones learnt.
    A system that kills a process instead of refusing it memory, as Linux does on the CPU, leaves
    nothing to learn from.
    """

    cells: int = sys.maxsize

    def pieces(self, batch: Batch, /) -> list[Batch]:
        """``batch`` in pieces for which there was room so far."""
        if len(batch) <= self.cells:
            return [batch]
        starts = range(0, len(batch), self.cells)
        return [batch.rows(start, min(start + self.cells, len(batch))) for start in starts]

    def halve(self, tried: int, /) -> None:
        """Memory ran out with ``tried`` cells at once: half as many from now on, with a warning."""
        self.cells = min(self.cells, max(1, tried // 2))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"Memory ran out with {tried} cells at once; going on with {self.cells}. The scores do "
            f"not depend on it. To ask for it from the start: batch_size={self.cells}.",
            AttrscoreWarning,
            stacklevel=2,
        )


class Gauge:
    """The peak of memory from one reading to the next: of this process, and of its device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self.most: dict[str, int] = {}
        """The highest readings so far."""
        self.read()

    def read(self) -> dict[str, int]:
        """In MiB, since the last reading. On systems other than Linux, of the process so far."""
        found = {"peak_memory_mib": peak() // MIB}
        count_anew()
        if self._device is not None:
            found["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(self._device) // MIB
            torch.cuda.reset_peak_memory_stats(self._device)
        self.most = higher(self.most, found)
        return found


def higher(one: Mapping[str, int], other: Mapping[str, int], /) -> dict[str, int]:
    """The higher of two readings, each of their numbers."""
    return {name: max(one.get(name, 0), value) for name, value in other.items()}
