"""Whether a job is finished, known from its settings and its files' dates, before torch is loaded.

A job's identity holds digests of the network and of all pixels. Where the same settings met the
same files before, those digests are known: the results folder keeps the identity under a key made
of the settings, of size and date of every file that they name, and of the versions of the code.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from attrscore import store
from attrscore.core.registry import REGISTRIES
from attrscore.core.secrets import Hidden
from attrscore.store.commit import commit, make_folder

if TYPE_CHECKING:
    import pandas as pd

    from attrscore.core.contracts import Dataset

__all__ = ["Finished", "finished", "incomplete", "place_of", "remember", "state_of"]

_SEEN_THROUGH = {
    "dataset": ("fields", "hdf5", "phantom"),
    "model": (
        *("exported", "monai_densenet", "monai_efficientnet", "monai_resnet", "timm"),
        *("tiny_cnn", "torchscript", "transformers"),
    ),
}
"""Plugins that read the files which their options name, and no others."""

_DECIDING = ("captum", "cellpose", "monai", "scikit-image", "torch")
"""Packages whose numbers a job's own can be."""

_NO_NUMBERS = (
    *("batch_size", "device", "figures", "label", "readers", "rerun", "results", "show"),
    *("threads", "train"),
)


@dataclass(frozen=True)
class Finished:
    """A job of which nothing is left to do, as :class:`attrscore.jobs.run.Outcome` shows one."""

    folder: Path
    scores: pd.DataFrame
    dataset: Any
    """What was skipped and left out."""
    computed: int = 0
    figures: tuple[Path, ...] = ()


def place_of(settings: Mapping[str, Any], /) -> Path | None:
    """Where the identity of the job is kept; None where not all that matters can be seen from here.

    Asked before the job reads anything, so that a file which changes meanwhile is noticed later.
    """
    if any(settings[kind]["name"] not in known for kind, known in _SEEN_THROUGH.items()):
        return None
    weights = settings["model"].get("weights")
    if weights and not Path(weights).expanduser().exists():  # to be trained first, or an error
        return None
    asked = {name: value for name, value in settings.items() if name not in _NO_NUMBERS}
    texts = list(_texts({kind: asked.get(kind) for kind in REGISTRIES}))
    if any(key == "_target_" for key, _ in texts):
        return None
    files = {path for _, text in texts for path in _files(text)}
    code = {str(path) for path in Path(__file__).parent.rglob("*.py")}
    points = [point for r in REGISTRIES.values() for point in entry_points(group=r.group)]
    packages = {point.dist.name for point in points if point.dist is not None}
    key = {
        "settings": asked,
        "files": [state_of(path) for path in sorted(files | code)],
        "versions": {name: _version(name) for name in {*_DECIDING, *packages}},
    }
    return Path(settings["results"]) / "known" / f"{store.identify(key)}.json"


def finished(place: Path | None, settings: Mapping[str, Any], /) -> Finished | None:
    """The job's results, if all of them are there and its files are as they were; else None.

    A file whose content changed while size, date and inode did not is not noticed.
    """
    known = _known(place, settings)
    if known is None:
        return None
    job, dataset = known
    results = Path(settings["results"])
    return Finished(results, store.read_scores(*store.folders_of(results, job)), dataset)


def incomplete(place: Path | None, settings: Mapping[str, Any], /) -> bool | None:
    """Whether a finished job left something out, without reading its results; None as above.

    None also where job.json does not tell how its rows ended, as after a kill.
    """
    known = _known(place, settings)
    if known is None:
        return None
    job, dataset = known
    wanted = set(job.conditions)
    failed = False
    for folder in store.serving(settings["results"], job):
        places = {each.triple[:2] for each in wanted.intersection(folder.job.conditions)}
        ended = [folder.known.get(folder.part(*span).name) for span in folder.done()]
        if places and None in ended:
            return None
        failed |= any(
            (method, layer) in places and status in store.FAILURES
            for told in ended
            for method, layer, status, *_ in (told or {}).get("failures", ())
        )
    return bool(dataset.skipped) or failed


def _known(
    place: Path | None, settings: Mapping[str, Any]
) -> tuple[store.Job, SimpleNamespace] | None:
    """The job that is remembered at a place, if nothing is left to do; and what it skipped."""
    if place is None or settings.get("rerun", "missing") != "missing":
        return None
    try:
        told = json.loads(place.read_bytes())
        job = store.Job.from_identity(told["identity"])
        dataset = SimpleNamespace(skipped=dict(told["skipped"]), left_out=int(told["left_out"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not known any more
        return None
    return None if store.missing_conditions(settings["results"], job) else (job, dataset)


def remember(
    place: Path | None, job: store.Job, dataset: Dataset, settings: Mapping[str, Any], /
) -> None:
    """Keep the identity of a job that has just been finished."""
    if place is None or place.exists():
        return
    told = {
        "identity": job.identity,
        "skipped": Hidden(settings["environment"]).texts(dict(dataset.skipped)),
        "left_out": dataset.left_out,
    }
    make_folder(place.parent)
    commit(place, json.dumps(told, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value


def _files(text: str) -> Iterator[str]:
    """The files that a text names: a file, a folder, or a pattern."""
    path = os.path.expanduser(text)  # noqa: PTH111  # glob wants text
    for found in {path, *glob.glob(path, recursive=True)}:  # noqa: PTH207
        if os.path.isdir(found):  # noqa: PTH112
            yield from (entry.path for entry in os.scandir(found) if entry.is_file())
        elif os.path.isfile(found):  # noqa: PTH113
            yield found


def state_of(path: str, /) -> list[Any]:
    """Size, date and inode of a file, by which a change is noticed."""
    state = os.stat(path)  # noqa: PTH116
    return [path, state.st_size, state.st_mtime_ns, state.st_ino]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
