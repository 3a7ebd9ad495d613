"""Random numbers that belong to one cell."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator_of"]


def generator_of(seed: int, purpose: str, cell: str, /) -> torch.Generator:
    """What is drawn for a cell follows from these three alone, whatever the batch.

    >>> torch.rand(1, generator=generator_of(0, "noise", "A01-7"))
    tensor([0.6391])
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{cell}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
