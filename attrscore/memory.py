"""What to do when memory runs out: go on with fewer cells at once."""

from __future__ import annotations

import gc
import sys
import warnings
from dataclasses import dataclass

import torch

from attrscore.core import Batch
from attrscore.errors import AttrscoreWarning

__all__ = ["Room", "is_out_of_memory"]

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def is_out_of_memory(error: BaseException, /) -> bool:
    """Whether memory ran out: also where torch, cuBLAS or cuDNN raise a plain RuntimeError.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


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
