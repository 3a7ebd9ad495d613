"""The how-to of plugins is run, and what it shows conforms."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

import attrscore
from attrscore.cli.commands.plugins import new_plugin
from attrscore.core.registry import MODELS, REGISTRIES, Configured
from attrscore.testing import assert_conforms

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The examples as the module that they would be."""
    folder = tmp_path_factory.mktemp("page")
    code = "\n\n".join(text for language, text in BLOCKS if language == "python")
    (folder / "extending_examples.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("extending_examples")
    sys.modules.pop("extending_examples")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("scorer", "nucleus_share"),
        ("method", "positive_cam"),
        ("target", "AboveMean"),
        ("model", "OneLayer"),
        ("dataset", "Squares"),
    ],
)
def test_every_example_conforms(page, kind, name):
    assert f"\n## A {kind}\n" in PAGE.read_text()
    assert_conforms(kind, getattr(page, name))


def test_all_of_them_work_together(page):
    cells = page.Squares()
    scores = attrscore.evaluate(
        page.OneLayer()(cells.spec),
        cells,
        methods=[page.positive_cam],
        scorers=["grad_camo", Configured(page.nucleus_share, {"region": "cell"})],
        layers="last_conv",
        target=page.AboveMean(weight=0.5),
    )
    assert set(scores["target"]) == {"above_mean0.5"}
    defined = scores[scores["status"] == "ok"]
    assert len(defined)
    assert defined["nucleus_share"].to_numpy() == pytest.approx(defined["grad_camo"].to_numpy())
    assert list(page.test_contract.pytestmark)


def test_groups_and_the_first_commands_are_those_that_exist(tmp_path):
    (toml,) = [tomllib.loads(text) for language, text in BLOCKS if language == "toml"]
    (group,) = toml["project"]["entry-points"]
    assert group == REGISTRIES["scorer"].group
    commands = [shlex.split(line) for line in BLOCKS[0][1].splitlines()]
    _, verb, new, kind, name, *_ = commands[0]
    assert (verb, new) == ("plugins", "new")
    assert new_plugin(kind, name, tmp_path)


def test_names_of_the_contract_that_the_page_mentions_exist(page):
    from attrscore import errors
    from attrscore.core import contracts as core
    from attrscore.core.heat import Heat
    from attrscore.core.passes import Pass

    text = PAGE.read_text()
    for owner, pattern in ((Heat, r"`heat\.(\w+)"), (Pass, r"`run\.(\w+)")):
        for name in set(re.findall(pattern, text)) - {"batch", "model"}:
            assert hasattr(owner, name), name
    assert core.Reasoned
    assert errors.UnsupportedError
    assert "factory" in MODELS
