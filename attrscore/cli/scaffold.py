"""A new plugin as a small package that can be installed, and passes its tests as it is."""

from __future__ import annotations

import importlib.util
import keyword
import re
import string
from collections.abc import Mapping
from pathlib import Path

from attrscore.core.registry import REGISTRIES
from attrscore.errors import ConfigError, choose

__all__ = ["new_plugin"]

TEMPLATES = Path(__file__).parent / "templates"
RESERVED = ("check", "list", "new")
"""Words that `attrscore plugins` takes for something else."""


def new_plugin(kind: str, name: str, folder: Path, /) -> list[Path]:
    """Write the package ``name`` into a new folder of that name within ``folder``; its files.

    :raises ConfigError: no such kind; a name that cannot be imported, is taken, or is a path; or a
        folder that exists, in which nothing is touched.
    """
    choose(kind, REGISTRIES, option="kind")
    _check_name(kind, name)
    root = folder / name
    try:
        root.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(
            f"{root} exists already, and nothing is overwritten; choose another name, or another "
            "folder with -o."
        ) from error
    except OSError as error:
        raise ConfigError(f"{root} cannot be made: {error.strerror}.") from error
    plugin = name if kind in ("method", "scorer") else _class_name(name)
    words = {
        "kind": kind,
        "name": name,
        "plugin": plugin,
        "dashed": name.replace("_", "-"),
        "built": f"{name}.{plugin}" + ("" if plugin == name else "()"),
    }
    files: Mapping[str, str] = {
        "pyproject.toml": "pyproject.toml",
        f"{name}/__init__.py": f"{kind}.py",
        f"{name}/conf/{kind}/{name}.yaml": f"{kind}.yaml",
        f"tests/test_{name}.py": "test.py",
    }
    written = []
    for path, template in files.items():
        text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(string.Template(text).substitute(words), encoding="utf-8")
        written.append(file)
    return written


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a plugin; give small letters, digits and underscores, a letter "
            "first, and no word of Python: nucleus_share."
        )
    if name in RESERVED:
        raise ConfigError(f"'{name}' is a word of attrscore plugins; choose another name.")
    if name in REGISTRIES[kind]:
        raise ConfigError(
            f"There is a {kind} '{name}' already; choose another name. See: attrscore plugins"
        )
    if importlib.util.find_spec(name) is not None:
        raise ConfigError(
            f"There is a Python package '{name}' already, which a new one would hide; choose "
            "another name."
        )


def _class_name(name: str) -> str:
    """As a class is called.

    >>> _class_name("my_disc2")
    'MyDisc2'
    """
    return "".join(part.capitalize() for part in name.split("_"))
