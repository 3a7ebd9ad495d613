"""The site: README, these pages, the notebooks, the benchmarks, and a reference of the API.

The source folder is the repository's root, so that a link between two files is the same on the
disk, in a browser of the repository and on the site.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils.nodes import SkipNode, math_block
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "attrscore"
author = "The attrscore developers"
copyright = f"{author}. Apache-2.0"
release = version = version_of("attrscore")
extensions = ["myst_nb", "sphinx.ext.autodoc"]

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "notebooks/*.ipynb",
    *("benchmarks/README.md", "benchmarks/*/README.md"),
    *("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md"),
]
exclude_patterns = [".*", "build", "demo", "dist", "results", "shared", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run the notebooks; make docs EXECUTE=cache runs them here
nb_execution_timeout = 600
nb_merge_streams = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
highlight_language = "none"

html_theme = "furo"
html_math_renderer = "mathml"  # as setup adds it: browsers draw it, and no script is fetched
html_title = "attrscore"
html_static_path = ["_static"]
html_css_files = ["attrscore.css"]
html_extra_path = ["index.html"]  # the root of the site leads to root_doc
html_copy_source = False
html_show_sphinx = False


def escaped(text: str) -> str:
    """A docstring in which (N, C, *S), |A| and Metadata_ are themselves, and not markup."""
    parts = re.split(r"(``.+?``|`.+?`_*)", text, flags=re.DOTALL)
    markup = r"(?m)\*(?=[Ss]\b)|\||(?<=\w)_(?!\w)|(?<= )-$"
    parts[::2] = [re.sub(markup, r"\\\g<0>", each) for each in parts[::2]]
    return "".join(parts)


def verbatim(text: str) -> str:
    """Text that holds no markup."""
    return re.sub(r"[*|_`\\]", r"\\\g<0>", text)


def plugin_pages(_app: object) -> None:
    """A page for each kind of plugin, from what is registered: docstrings, options, columns."""
    from attrscore.core.registry import REGISTRIES

    folder = ROOT / "docs" / "plugins"
    folder.mkdir(exist_ok=True)
    for kind, registry in REGISTRIES.items():
        title = f"All {kind}s"
        lines = [title, "=" * len(title), "", f".. automodule:: attrscore.{kind}s", ""]
        for entry in registry.entries():
            if entry.package == "attrscore" and not entry.alias_of:
                lines += [entry.name, "-" * len(entry.name), "", *about(kind, registry, entry.name)]
        path, text = folder / f"{kind}s.rst", "\n".join(lines) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def about(kind, registry, name) -> list[str]:
    """What a plugin's docstring says, its options and its columns, as lines of a page."""
    from attrscore.core.options import options_of
    from attrscore.core.readings import Reading, readings_of

    plugin = registry.load(name)
    lines = [*escaped(inspect.getdoc(plugin)).splitlines(), ""]
    lines += row_of(name) if kind == "method" else []
    options = options_of(plugin).values()
    for option in options:
        default = "required" if option.required else f"``{option.default!r}``"
        says = f": {verbatim(option.help)}" if option.help else ""
        lines += [f"* ``{option.name}`` ({default}){says}"]
    readings = readings_of(plugin) if kind == "scorer" else {}
    lines += ["", "Columns:", ""] if readings else [""]
    lines += [
        f"* ``{column}``: {verbatim(Reading(**how).sentence)}" for column, how in readings.items()
    ]
    return [*lines, ""]


def row_of(method) -> list[str]:
    """What the leaderboard of the docs says of a method."""
    import pandas as pd

    path = ROOT / "docs" / "leaderboard.csv"
    if not path.exists():
        return []
    table = pd.read_csv(path)
    lines = []
    for row in table[(table["method"] == method) & table["rank"].notna()].to_dict("records"):
        lines += [
            f"Leaderboard, {verbatim(row['layer'])}: mean rank {row['rank']:.1f}; heat on what "  # noqa: ISC004
            f"cannot matter {row['blind']:.2f}; AUROC against background {row['background']:.2f}, "
            f"neighbours {row['neighbours']:.2f}; {row['seconds']:.1f} x the floor.",
            "",
        ]
    return lines


def of_docstring(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """Autodoc's hook: the lines are changed where they are."""
    lines[:] = escaped("\n".join(lines)).split("\n")


def mathml(writer, node) -> None:
    """A formula, in the text or by itself, as MathML."""
    writer.body.append(tex2mathml(node.astext(), as_block=isinstance(node, math_block)))
    raise SkipNode


def setup(app) -> None:
    """Write the pages before files are looked for; docstrings as they are meant."""
    app.connect("builder-inited", plugin_pages)
    app.connect("autodoc-process-docstring", of_docstring)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
