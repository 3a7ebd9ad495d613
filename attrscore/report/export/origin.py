"""Where exported numbers come from: the jobs that computed them, as text that any file can hold."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from attrscore.store import provenance_of
from attrscore.store.folders import find

__all__ = ["origin"]


def origin(results: Path, /) -> dict[str, Any]:
    """The version of attrscore, the name of the results, and each job by its name.

    A job tells ``model``, ``dataset``, and as text ``identity`` (JSON), ``config`` (YAML) and
    ``provenance`` (JSON).

    :raises StoreError: nothing there, or nothing of ours.
    """
    jobs, merged = find([results])
    told = {
        each.folder.job.id: {
            "model": each.folder.model,
            "dataset": each.folder.dataset,
            "identity": json.dumps(each.folder.job.identity),
            "config": each.folder.config,
            "provenance": json.dumps(each.folder.provenance, default=str),
        }
        for each in jobs
    }
    for path in merged:
        listed = (
            json.loads((pq.read_schema(path).metadata or {}).get(b"attrscore.jobs", b"[]"))
            if path.suffix == ".parquet"
            else provenance_of(path).get("jobs", [])
        )
        told |= {job.pop("job"): {k: str(v) for k, v in job.items()} for job in map(dict, listed)}
    return {"version": version("attrscore"), "results": results.resolve().name, "jobs": told}
