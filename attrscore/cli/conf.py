"""Write the files of conf/ that say what plugins say of themselves: ``make conf``.

A choice of a method, scorer, target, model or dataset is a plugin and its options, a null a scorer
to be added: nothing in them is written by hand. ``config.yaml`` and ``experiment`` are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from attrscore.core.heat import HeatOptions
from attrscore.core.options import Option, options_of, summary
from attrscore.core.registry import (
    GUIDES,
    REGISTRIES,
    SCORERS,
    SEVERAL,
    DatasetOptions,
    ModelOptions,
    conf_dir,
)

ALL = {**REGISTRIES, "guide": GUIDES}

SHARED = {"dataset": DatasetOptions, "model": ModelOptions}
"""Options that every plugin of a kind has, beside its own."""

NULLS = ("circular_shift", "mask_swap", "random_map")

VARIANTS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "dataset/phantom_3d": (
        "phantom",
        "Synthetic Cell Painting stacks whose label has a known carrier",
        {"size": (16, 48, 48), "cells": 128},
    ),
    "guide/energy": ("outside", "The same as outside, by its other name", {}),
}
"""Choices beside those named like their plugin: the plugin, what it is, other defaults."""

COLUMN = 24
"""Where comments begin."""


def conf_files() -> dict[str, str]:
    """Path below conf/ -> its text."""
    files = {}
    for kind, registry in ALL.items():
        for entry in registry.entries():
            if entry.alias_of is None and entry.package == "attrscore":
                about = summary(registry.load(entry.name))
                files[f"{kind}/{entry.name}.yaml"] = _choice(kind, entry.name, about, {})
    for path, (name, about, other) in VARIANTS.items():
        files[f"{path}.yaml"] = _choice(path.partition("/")[0], name, about, other)
    for name in NULLS:
        files[f"null/{name}.yaml"] = (
            f"# @package scorer\n# {summary(SCORERS.load(name))}\n"
            f"defaults:\n  - /scorer/{name}@_here_\n"
        )
    files["null/none.yaml"] = "# @package scorer\n# No null beside the scores\n"
    files["heat/default.yaml"] = "\n".join(
        [f"# {summary(HeatOptions)}", *_lines(options_of(HeatOptions).values(), {}, ""), ""]
    )
    return files


def write_conf(folder: Path, /) -> list[Path]:
    """Write what is stale or missing, and remove what no plugin stands behind; the paths."""
    files, changed = conf_files(), []
    for path, text in files.items():
        file = folder / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    for group in sorted({path.partition("/")[0] for path in files}):
        for file in sorted((folder / group).glob("*.yaml")):
            if f"{group}/{file.name}" not in files:
                file.unlink()
                changed.append(file)
    return changed


def _choice(kind: str, name: str, about: str, other: Mapping[str, Any]) -> str:
    options = list(options_of(ALL[kind].load(name)).values())
    if kind in SHARED:
        options += options_of(SHARED[kind]).values()
    if kind not in SEVERAL:
        return "\n".join([f"# {about}", f"name: {name}", *_lines(options, other, ""), ""])
    if not options:
        return f"# {about}\n{name}: {{}}\n"
    return "\n".join([f"# {about}", f"{name}:", *_lines(options, other, "  "), ""])


def _lines(options: Iterable[Option], other: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for option in sorted(options, key=lambda each: not each.required):  # what must be stated first
        value = "???" if option.required else _written(other.get(option.name, option.default))
        line = f"{indent}{option.name}: {value}"
        lines.append(f"{line:<{COLUMN - 2}}  # {option.help}" if option.help else line)
    return lines


def _written(value: Any) -> str:
    """A value as YAML, in one line.

    >>> _written((0.1, None)), _written("a: b"), _written(1e-9), _written({})
    ('[0.1, null]', '"a: b"', '1.0e-09', '{}')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_written(k)}: {_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, str):
        simple = re.fullmatch(r"[\w./-]+", value) and yaml.safe_load(value) == value
        return value if simple else json.dumps(value)
    return str(yaml.safe_dump(value)).split("\n")[0]


if __name__ == "__main__":
    for written in write_conf(conf_dir()):
        print(written.relative_to(conf_dir().parent))  # a tool of this repository
