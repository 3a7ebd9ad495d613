"""What is written about a run: what its numbers came from, and where it happened."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from attrscore import store
from attrscore.assembly import Parts
from attrscore.layers import device_of

__all__ = ["facts", "machine"]


def facts(overrides: Sequence[str], /) -> dict[str, Any]:
    """What else the numbers of a run came from: the same on every machine and at any time."""
    packages = ("attrscore", "captum", "h5py", "numpy", "torch")
    return {
        "overrides": list(overrides),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "git": store.repository(),
    }


def machine(parts: Parts, /) -> dict[str, Any]:
    """Where a run happened, and what it could not use."""
    device = device_of(parts.model)
    told: dict[str, Any] = {"device": str(device), **store.hardware()}
    if device.type == "cuda":
        told["gpu"] = torch.cuda.get_device_name(device)
    return {
        **told,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "folder": str(Path.cwd()),
        "skipped": dict(parts.dataset.skipped),
    }
