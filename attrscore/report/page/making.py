"""How results were made: commands, options, versions, fingerprints, as their files tell it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from attrscore import store
from attrscore.store.folders import find
from attrscore.store.identity import flatten

__all__ = ["jobs_of"]


def jobs_of(paths: Sequence[str | Path], /) -> list[dict[str, Any]]:
    """What each job at these places tells of itself, each once; folders and merged files."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for told in _told(Path(path)):
            found.setdefault(str(told.get("job")), _job(told))
    return list(found.values())


def _told(path: Path) -> Iterable[Mapping[str, Any]]:
    jobs, merged = find([path])
    for job in jobs:
        folder = job.folder
        yield {
            "job": folder.job.id,
            "path": str(folder.path),
            "labels": {"model": folder.model, "dataset": folder.dataset},
            "identity": folder.job.identity,
            "config": folder.config,
            "provenance": folder.provenance,
            "runs": folder.runs,
        }
    for file in merged:
        if file.suffix == ".parquet":
            metadata = pq.read_schema(file).metadata or {}
            rows = json.loads(metadata.get(b"attrscore.jobs", b"[]"))
        else:
            rows = store.provenance_of(file).get("jobs", [])
        for row in rows:
            labels = {name: row.get(name, "") for name in ("model", "dataset")}
            parsed = {n: _parsed(row.get(n)) for n in ("identity", "provenance", "runs")}
            yield {**row, "labels": labels, **parsed}


def _parsed(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _job(told: Mapping[str, Any]) -> dict[str, Any]:
    identity = told.get("identity") or {}
    base = identity.get("base", {})
    provenance = told.get("provenance") or {}
    runs = [run for run in told.get("runs") or () if isinstance(run, Mapping)]
    conditions = identity.get("conditions", ())
    overrides = list(map(str, provenance.get("overrides", ())))
    settings = flatten(base)
    randomised = str(settings.get("model.randomize") or "none")
    return {
        "randomised": "" if randomised == "none" else randomised,
        "job": str(told.get("job", "")),
        "path": str(told.get("path", "")),
        "model": str(told["labels"]["model"]),
        "dataset": str(told["labels"]["dataset"]),
        "cells": identity.get("rows"),
        "layers": list(dict.fromkeys(str(c["layer"]) for c in conditions)),
        "methods": _plugins(c["method"] for c in conditions),
        "scorers": _plugins(c["scorer"] for c in conditions),
        "settings": {
            name: value
            for name, value in settings.items()
            if value is not None and not name.endswith(("fingerprint", "origin"))
        },
        "network_fingerprint": _inner(base, "model"),
        "data_fingerprint": _inner(base, "dataset"),
        "command": shlex.join(["attrscore", *overrides]),
        "config": str(told.get("config") or ""),
        "versions": {
            "python": str(provenance.get("python", "")),
            **{str(k): str(v) for k, v in dict(provenance.get("packages") or {}).items()},
        },
        "git": provenance.get("git"),
        "device": ", ".join(dict.fromkeys(str(r["device"]) for r in runs if r.get("device"))),
        "runs": len(runs),
    }


def _inner(base: Mapping[str, Any], kind: str) -> str:
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
