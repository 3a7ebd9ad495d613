"""``attrscore plugins``: what there is, what one means, a new one, and whether one conforms."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import keyword
import re
import string
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attrscore.cli.commands import parser_of
from attrscore.cli.hydra_app import options_from
from attrscore.cli.outcomes import FAILED, OK
from attrscore.core.options import options_of, plain
from attrscore.core.readings import Reading, readings_of
from attrscore.core.registry import REGISTRIES, Registry
from attrscore.errors import ConfigError, choose, did_you_mean

EXAMPLES = """examples:
  attrscore plugins                              what is there, and from which package
  attrscore plugins integrated_gradients         what it means, and its options
  attrscore plugins new scorer nucleus_share     write a small package to begin with
  attrscore plugins check nucleus_share          whether it holds what ours hold"""


def plugins(arguments: Sequence[str]) -> int:
    """List the plugins, explain one (NAME), write a new one (new), or test one (check)."""
    words = [word for word in arguments if not word.startswith("-")]
    first = words[0] if words else "list"
    if first == "new":
        return _new([word for word in arguments if word != first])
    if first == "check":
        at = list(arguments).index(first)
        return _check([*arguments[:at], *arguments[at + 1 :]])
    parser = parser_of(
        "plugins", plugins.__doc__, EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="list", help="list, or a registered name")
    parser.add_argument("--json", action="store_true", help="for other programs")
    options = parser.parse_args(list(arguments))
    return _list(options.json) if options.name == "list" else _explain(options.name, options.json)


def _list(as_json: bool) -> int:  # noqa: FBT001  # as the option
    from attrscore.cli import output

    entries = {kind: registry.examined() for kind, registry in REGISTRIES.items()}
    if as_json:
        listed = [{"kind": kind, **asdict(e)} for kind, found in entries.items() for e in found]
        sys.stdout.write(json.dumps(listed, indent=1) + "\n")
        return OK
    output.stdout().print(output.plugin_table(entries))
    for entry in [entry for found in entries.values() for entry in found if entry.problem]:
        output.stderr().print(f"left out: {entry.problem}", soft_wrap=True)
    return OK


def _explain(name: str, as_json: bool) -> int:  # noqa: FBT001  # as the option
    from attrscore.cli import output

    explained = [_explained(registry, name) for registry in _having(name)]
    if as_json:
        sys.stdout.write(json.dumps(explained, indent=1, default=repr) + "\n")
        return OK
    for each in explained:
        lines = [f"{each['kind']} {name} ({each['origin']})", "", each["says"], "", "options:"]
        for option, about in each["options"].items():
            default = "(required)" if about["required"] else repr(about["default"])
            says = f"   # {about['says']}" if about["says"] else ""
            lines.append(f"  {option} = {default}{says}")
        lines += [] if each["options"] else ["  none"]
        lines += ["", "columns:"] if each["readings"] else []
        for column, fields in each["readings"].items():
            lines.append(f"  {column}: {Reading(**fields).sentence}")
        output.stdout().print("\n".join(lines), highlight=False, soft_wrap=True)
    return OK


def _explained(registry: Registry, name: str) -> dict[str, Any]:
    plugin, comments = registry.load(name), _comments(registry, name)
    return {
        "kind": registry.kind,
        "name": name,
        "origin": registry.origin(name),
        "says": plain(inspect.getdoc(plugin) or "(no description)"),
        "options": {
            option.name: {
                "required": option.required,
                "default": None if option.required else option.default,
                "says": option.help or comments.get(option.name, ""),
            }
            for option in options_of(plugin).values()
        },
        "readings": readings_of(plugin) if registry.kind == "scorer" else {},
    }


def _comments(registry: Registry, name: str) -> dict[str, str]:
    """Option -> the comment beside it in the YAML file of a stranger's package."""
    path = registry.yaml(name)
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    found = (re.match(r"\s*(\w+):.*?\s#\s*(.+)$", line) for line in lines)
    return {match[1]: match[2].strip() for match in found if match}


def _new(arguments: Sequence[str]) -> int:
    """Write a small package with a plugin that can be installed and passes its tests as it is."""
    parser = parser_of("plugins new", _new.__doc__, "example: attrscore plugins new scorer share")
    parser.add_argument("kind", help=", ".join(REGISTRIES))
    parser.add_argument("name", help="small letters, digits and underscores")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(), metavar="FOLDER", help="where (default: here)"
    )
    options = parser.parse_args(list(arguments))
    from attrscore.cli import output

    written = new_plugin(options.kind, options.name, options.output)
    root = options.output / options.name
    lines = [*map(str, written), "", f"next: python -m pip install -e {root}"]
    lines += [f"      python -m pytest {root}", f"      attrscore plugins check {options.name}"]
    output.stdout().print("\n".join(lines), highlight=False, soft_wrap=True)
    return OK


def _check(arguments: Sequence[str]) -> int:
    """Ask a plugin, with these options, what our own are asked; exit 1 where one is broken."""
    parser = parser_of(
        "plugins check",
        _check.__doc__,
        "example: attrscore plugins check nucleus_share region=cell",
    )
    parser.add_argument("name", help="a registered name")
    parser.add_argument("options", nargs="*", metavar="option=value", help="it is built with")
    parser.add_argument("--kind", choices=list(REGISTRIES), help="where a name is of several kinds")
    parser.add_argument("--json", action="store_true", help="for other programs")
    asked = parser.parse_args(list(arguments))
    from attrscore.cli import output
    from attrscore.testing import conformance

    found = [r for r in _having(asked.name) if asked.kind in (None, r.kind)]
    if not found:
        raise ConfigError(f"No {asked.kind} is called {asked.name!r}. See: attrscore plugins")
    given = options_from(asked.options)
    tested = []
    for registry in found:
        outcomes = conformance(registry.kind, asked.name, **given)
        tested.append((registry.kind, outcomes))
    if asked.json:
        made = [
            {"kind": kind, "name": asked.name, "checks": list(map(asdict, outcomes))}
            for kind, outcomes in tested
        ]
        sys.stdout.write(json.dumps(made, indent=1) + "\n")
    else:
        for kind, outcomes in tested:
            output.say_conformance(kind, asked.name, outcomes)
    return FAILED if any(o.state == "broken" for _, each in tested for o in each) else OK


def _having(name: str) -> list[Registry]:
    found = [registry for registry in REGISTRIES.values() if name in registry]
    if not found:
        names: Iterable[str] = (known for each in REGISTRIES.values() for known in each.names())
        raise ConfigError(f"No plugin is called {name!r}. {did_you_mean(name, names)}")
    return found


TEMPLATES = Path(__file__).parents[1] / "templates"
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
