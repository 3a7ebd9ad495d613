"""What is said of a run: what its numbers came from, where it happened, and what its data are."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attrscore.core.contracts import Batch, Dataset
from attrscore.core.model import device_of
from attrscore.datasets.flags import RedFlag
from attrscore.engine.memory import count_anew, peak
from attrscore.jobs.assembly import Parts
from attrscore.models.record import TrainingRecord

MIB = 2**20

_NO_PROGRAMS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_NO_TRANSPORT = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
}

NO_NUMBERS = (
    *("figures", "fuse", "guide", "hydra", "label", "objective", "readers", "rerun", "results"),
    "show",
    *("threads", "train", "trust"),
)
"""Settings that no number depends on: parts do not hold them, so that changing one of them changes
no byte of a part."""


def of_numbers(config: str, besides: Collection[str] = (), /) -> str:
    r"""The text of a configuration without the settings that no number depends on.

    One that another setting refers to stays.

    >>> of_numbers("seed: 0\nshow:\n- a\nresults: here\n")
    'seed: 0\n'
    """
    blocks = re.split(r"(?m)^(?=[^\s\-#])", config)
    left_out = {*NO_NUMBERS, *besides}
    kept = "".join(block for block in blocks if block.partition(":")[0] not in left_out)
    referred = {name for name in left_out if f"${{{name}" in kept}
    return "".join(
        block
        for block in blocks
        if (name := block.partition(":")[0]) not in left_out or name in referred
    )


def overrides_of_numbers(overrides: Sequence[str], besides: Collection[str] = (), /) -> list[str]:
    """Overrides without those of settings that no number depends on."""
    left_out = {*NO_NUMBERS, *besides}
    return [each for each in overrides if re.split(r"[./=@]", each.lstrip("+~"))[0] not in left_out]


def of_a_draw(
    config: str, overrides: Sequence[str], /, *, seed: int, first: int
) -> tuple[str, list[str]]:
    r"""Configuration and overrides of one draw of random weights, of those from the seed ``first``.

    What else refers to the seed keeps the value that it has.

    >>> of_a_draw("dataset:\n  seed: ${seed}\nseed: 0\n", ["model.draws=9"], seed=3, first=0)
    ('dataset:\n  seed: 0\nseed: 3\n', ['model.draws=1', 'keep=none', 'seed=3'])
    """
    config = config.replace("${seed}", str(first))
    for setting, value in (("seed", seed), ("keep", "none"), ("(?<=^model:\n)(  .*\n)*  draws", 1)):
        config = re.sub(rf"(?m)^({setting}): .*$", rf"\1: {value}", config)
    others = [each for each in overrides if not re.match(r"\+*(model\.draws|keep|seed)=", each)]
    return config, [*others, "model.draws=1", "keep=none", f"seed={seed}"]


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, and memory of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _cpu(), "cores": cores, "memory_mib": _memory() // MIB}


def repository(folder: Path | None = None, /) -> dict[str, Any] | None:
    """Commit of the git repository that a folder (the working folder) lies in, and whether files
    that it tracks were changed; None without one.
    """  # noqa: D205  # one sentence
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = None
    if not _filters(folder):
        status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        changed = _git(folder, *status)
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _filters(folder: Path | None) -> bool:
    """Whether the repository itself, not its user, names programs that its files go through."""
    listed = _git(folder, "config", "--show-scope", "--name-only", "--list")
    own = [line.split() for line in (listed or "local filter.unknown").splitlines()]
    return any(
        scope in ("local", "worktree") and name.startswith("filter.") for scope, name, *_ in own
    )


class Clock:
    """Wall time, and the peak of this process's memory, from here on.

    Where the system cannot reset the peak (all but Linux), it is that of the process so far.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()  # a wall clock may go back
        self.started = datetime.now(tz=UTC).isoformat(timespec="seconds")
        count_anew()

    def read(self) -> dict[str, Any]:
        """When it began, seconds since, and the peak in MiB."""
        return {
            "started": self.started,
            "seconds": round(time.monotonic() - self._began, 3),
            "peak_memory_mib": peak() // MIB,
        }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _git(folder: Path | None, *arguments: str) -> str | None:
    """What git says. It starts none of the programs that a repository's configuration can name."""
    try:
        done = subprocess.run(  # noqa: S603  # fixed arguments
            ["git", *_NO_PROGRAMS, *arguments],  # noqa: S607  # the user's git
            cwd=folder,
            env={**os.environ, **_NO_TRANSPORT},
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def facts(overrides: Sequence[str], /) -> dict[str, Any]:
    """What else the numbers of a run came from: the same on every machine and at any time."""
    packages = ("attrscore", "captum", "h5py", "numpy", "torch")
    return {
        "overrides": list(overrides),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "git": repository(),
    }


def machine(parts: Parts, /) -> dict[str, Any]:
    """Where a run happened, and what it could not use."""
    device = device_of(parts.model)
    found: dict[str, Any] = {"device": str(device), **hardware()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return {
        **found,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "folder": str(Path.cwd()),
        "skipped": dict(parts.dataset.skipped),
    }


MOST_GROUPS = 48
"""Rows of a table of wells; where there are more, a row a plate."""

_FLAGS = ("touches_border", "tiny", "split", "cut")


@dataclass(frozen=True)
class Contents:
    """Facts in words, and counts."""

    facts: Mapping[str, str]
    groups: pd.DataFrame
    """Cells of each class (columns) by plate and well, or by plate (rows), as far as known."""
    flags: Mapping[str, int]
    """Odd cells: how many of each kind."""


def contents(dataset: Dataset, batch: Batch, /) -> Contents:
    """Look at the table, at one batch, and at what the dataset says about itself (``about``)."""
    table, spec = dataset.table, dataset.spec
    facts = {"cells": str(len(table))}
    if "Metadata_image" in table:
        facts["cells"] += f" in {table['Metadata_image'].nunique()} images"
    if "Metadata_area" in table:
        low, middle, high = table["Metadata_area"].quantile([0.05, 0.5, 0.95])
        facts["area"] = f"{middle:.0f} pixels in the middle, 9 of 10 from {low:.0f} to {high:.0f}"
    facts |= {
        "channels": str(spec.channels)
        + (f" ({', '.join(batch.stains)})" if batch.stains else ", unnamed"),
        "crop": " x ".join(map(str, spec.size)) + " pixels",
        "voxel": "unknown size"
        if batch.spacing is None
        else " x ".join(f"{n:g}" for n in batch.spacing) + " µm",
        **about(dataset).get("data", {}),
        "regions": ", ".join(batch.regions),
        "classes": f"{len(dataset.classes)}: {', '.join(dataset.classes[:8])}"
        + (" ..." if len(dataset.classes) > 8 else "")
        if dataset.classes
        else "none",
    }
    flags = {
        name: int(table[f"Metadata_{name}"].sum()) for name in _FLAGS if f"Metadata_{name}" in table
    }
    return Contents(facts, _groups(table, dataset.classes), flags)


def about(dataset: Dataset, /, flags: Sequence[RedFlag] = ()) -> dict[str, Any]:
    """What the dataset says about itself: ``data``, its ``classes``, and its ``red_flags``."""
    known = dict(getattr(dataset, "about", {}))
    said: dict[str, Any] = {"data": known} if known else {}
    said |= {"classes": [str(each) for each in dataset.classes]} if dataset.classes else {}
    return said | ({"red_flags": [flag.as_dict() for flag in flags]} if flags else {})


def normalised_otherwise(dataset: Dataset, record: TrainingRecord | None, /) -> list[RedFlag]:
    """The flag of cells whose pixels are not what the model was trained on."""
    now = getattr(dataset, "about", {}).get("normalised", "")
    then = "" if record is None else record.normalised
    if not now or not then or now == then:
        return []
    cells = len(dataset.table)
    return [RedFlag("normalised_otherwise", cells, cells, (f"then {then}", f"now {now}"))]


def notify_of_data(
    dataset: Dataset, flags: Sequence[RedFlag], notify: Callable[[str], None], /
) -> None:
    """Say where no person drew or checked the masks, and what seems wrong, a line each."""
    made = getattr(dataset, "about", {}).get("masks")
    if made:
        notify(f"masks: {made}")
    for flag in flags:
        notify(f"red flag: {flag.describe()}")


def _groups(table: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    names = {-1: "no class", **dict(enumerate(classes))}
    classed = table["label"].map(names)
    kept = [name for name in names.values() if (classed == name).any()]
    keys = [name for name in ("Metadata_Plate", "Metadata_Well") if name in table]
    wells = table[keys].drop_duplicates() if keys else pd.DataFrame()
    if "Metadata_Well" in keys and len(wells) > MOST_GROUPS:
        keys.remove("Metadata_Well")
    known = table[keys].astype(object).fillna("not said").astype(str)
    by = [known[key].rename(key.removeprefix("Metadata_").lower()) for key in keys]
    counts = pd.crosstab(by or pd.Series("all", table.index, name=""), classed)[kept]
    counts.insert(0, "cells", counts.sum(axis=1))
    if "Metadata_Well" in table and "Metadata_Well" not in keys:
        of = wells.groupby("Metadata_Plate", dropna=False).size() if keys else [len(wells)]
        counts.insert(0, "wells", list(of))
    counts.columns.name = None
    return counts.reset_index()
