"""How results were made, as their files say it: for the page, and beside exported numbers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrscore import store
from attrscore.store.folders import find
from attrscore.store.identity import flatten

__all__ = ["classes_of", "jobs_of", "origin", "red_flags_of"]


def origin(results: Path, /) -> dict[str, Any]:
    """The version of attrscore, the name of the results, and each job by its id.

    A job has ``model``, ``dataset``, and as text ``identity`` (JSON), ``config`` (YAML) and
    ``provenance`` (JSON).

    :raises StoreError: nothing there, or nothing of ours.
    """
    jobs = {
        str(job["job"]): {
            "model": job["model"],
            "dataset": job["dataset"],
            "identity": json.dumps(job["identity"]),
            "config": str(job["config"] or ""),
            "provenance": json.dumps(job["provenance"], default=str),
        }
        for job in _jobs_at(results)
    }
    return {"version": version("attrscore"), "results": results.resolve().name, "jobs": jobs}


def jobs_of(paths: Sequence[str | Path], /) -> list[dict[str, Any]]:
    """Each job at these paths once, with its command, options, versions and fingerprints."""
    jobs: dict[str, dict[str, Any]] = {}
    for path in paths:
        for job in _jobs_at(Path(path)):
            jobs.setdefault(str(job["job"]), _described(job))
    return list(jobs.values())


def classes_of(jobs: Sequence[Mapping[str, Any]], /) -> dict[str, tuple[str, ...]]:
    """The names of the classes of each dataset of these jobs (of :func:`jobs_of`), in order.

    Not of a dataset of which jobs name other classes.
    """
    named = {(job["dataset"], tuple(map(str, job["classes"]))) for job in jobs if job["classes"]}
    datasets = [dataset for dataset, _ in named]
    return {dataset: names for dataset, names in named if datasets.count(dataset) == 1}


def red_flags_of(jobs: Sequence[Mapping[str, Any]], /) -> list[str]:
    """What seemed wrong with the data of these jobs (of :func:`jobs_of`), each line once."""
    lines = {
        f"{job['dataset']}: {flag.get('seen', '')}: {flag.get('advice', '')}.": None
        for job in jobs
        for flag in job["red_flags"]
    }
    return list(lines)


def _jobs_at(path: Path) -> Iterator[dict[str, Any]]:
    """The jobs of folders, parts and merged files."""
    jobs, merged = find([path])
    for job in jobs:
        folder = job.folder
        yield {
            "job": folder.job.id,
            "path": str(folder.path),
            "model": folder.model,
            "dataset": folder.dataset,
            "identity": folder.job.identity,
            "config": folder.config,
            "provenance": folder.provenance,
            "runs": folder.runs,
        }
    for file in merged:
        for row in store.provenance_of(file).get("jobs", []):
            empty = {"model": "", "dataset": "", "config": "", "path": ""}
            texts = {name: _parsed(row.get(name)) for name in ("identity", "provenance", "runs")}
            yield empty | dict(row) | texts


def _parsed(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _described(job: Mapping[str, Any]) -> dict[str, Any]:
    identity = job["identity"] or {}
    base = identity.get("base", {})
    provenance = job["provenance"] or {}
    runs = [run for run in job["runs"] or () if isinstance(run, Mapping)]
    conditions = identity.get("conditions", ())
    overrides = list(map(str, provenance.get("overrides", ())))
    settings = flatten(base)
    randomised = str(settings.get("model.randomize") or "none")
    return {
        "randomised": "" if randomised == "none" else randomised,
        "job": str(job["job"]),
        "path": str(job["path"]),
        "model": str(job["model"]),
        "dataset": str(job["dataset"]),
        "cells": identity.get("rows"),
        "layers": list(dict.fromkeys(str(c["layer"]) for c in conditions)),
        "methods": _plugins(c["method"] for c in conditions),
        "scorers": _plugins(c["scorer"] for c in conditions),
        "settings": {
            name: value
            for name, value in settings.items()
            if value is not None and not name.endswith(("fingerprint", "origin"))
        },
        "model_fingerprint": _fingerprint(base, "model"),
        "data_fingerprint": _fingerprint(base, "dataset"),
        "command": shlex.join(["attrscore", *overrides]),
        "config": str(job["config"] or ""),
        "versions": {
            "python": str(provenance.get("python", "")),
            **{str(k): str(v) for k, v in dict(provenance.get("packages") or {}).items()},
        },
        "git": provenance.get("git"),
        "classes": [str(c) for c in found]
        if isinstance(found := provenance.get("classes"), list)
        else [],
        "red_flags": [f for f in provenance.get("red_flags") or () if isinstance(f, Mapping)],
        "device": ", ".join(dict.fromkeys(str(r["device"]) for r in runs if r.get("device"))),
        "runs": len(runs),
    }


def _fingerprint(base: Mapping[str, Any], kind: str) -> str:
    part = base.get(kind)
    return str(part.get("fingerprint", "")) if isinstance(part, Mapping) else ""


def _plugins(plugins: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each plugin once: its key, its options as text, where its code came from."""
    found = {}
    for plugin in plugins:
        options = ", ".join(f"{k}={v}" for k, v in (plugin.get("options") or {}).items())
        name = plugin.get("name") or plugin["key"]
        called = str(plugin["key"]) + (f" ({name})" if name != plugin["key"] else "")
        found[plugin["key"]] = {
            "name": called,
            "options": options or "no options",
            "origin": str(plugin.get("origin") or ""),
        }
    return list(found.values())
