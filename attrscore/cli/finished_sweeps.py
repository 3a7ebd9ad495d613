"""Jobs of a sweep that are finished, known from their overrides alone.

Hydra takes a quarter of a second to compose the configuration of a job. A sweep that was finished
need not pay it for each: the results folder keeps configurations, as they were written, under a key
made of the overrides and of the state of all files that Hydra reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrscore import store
from attrscore.cli.finished import state_of
from attrscore.core.registry import REGISTRIES
from attrscore.store.commit import commit, make_folder

__all__ = ["place_of_command", "remember_command", "told_of_command"]


def place_of_command(
    results: str, overrides: Sequence[str], sources: Iterable[tuple[str, str, str]], /
) -> Path | None:
    """Where the configuration of a job is kept; None where not all that it is made of can be seen.

    ``sources`` are Hydra's: schema, path and provider of each.
    """
    sources = list(sources)
    folders = [Path(path) for schema, path, _ in sources if schema == "file"]
    packages = [provider for schema, _, provider in sources if schema == "pkg"]
    if any(provider != "hydra" for provider in packages):
        return None
    if any(registry.installed() for registry in REGISTRIES.values()):
        return None  # their options are composed in as well, and may be edited without a version
    files = sorted({str(file) for folder in folders for file in folder.rglob("*.y*ml")})
    key = {
        "overrides": list(overrides),
        "folders": [str(folder) for folder in folders],
        "files": [state_of(file) for file in files],
        "working": os.getcwd(),  # noqa: PTH109  # as text
        "versions": {name: version(name) for name in ("attrscore", "hydra-core", "omegaconf")},
    }
    return Path(results) / "known" / "commands" / f"{store.identify(key)}.json"


def remember_command(place: Path | None, config: Any, /) -> None:
    """Keep the configuration of a finished job, references unresolved."""
    if place is None or place.exists():
        return
    make_folder(place.parent)
    commit(place, json.dumps(config, ensure_ascii=False, default=str).encode())


def told_of_command(place: Path | None, /) -> Any:
    """The configuration kept there, or None."""
    if place is None:
        return None
    try:
        return json.loads(place.read_bytes())
    except (OSError, ValueError):
        return None
