"""New plugins conform as they are, and nothing that exists is touched."""

from __future__ import annotations

import importlib
import sys
import tomllib

import pytest

from attrscore.cli.commands.plugins import new_plugin
from attrscore.core.registry import REGISTRIES
from attrscore.errors import ConfigError


@pytest.mark.slow
@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_new_plugin_passes_its_own_tests(kind, tmp_path, monkeypatch):
    name = f"my_{kind}2"
    written = new_plugin(kind, name, tmp_path / "deep")
    root = tmp_path / "deep" / name
    assert written[0] == root / "pyproject.toml"
    stated = tomllib.loads(written[0].read_text())
    monkeypatch.syspath_prepend(root)
    monkeypatch.syspath_prepend(root / "tests")
    plugin = importlib.import_module(name)
    tests = importlib.import_module(f"test_{name}")
    try:
        module, _, attribute = stated["project"]["entry-points"][f"attrscore.{kind}s"][
            name
        ].partition(":")
        assert module == name
        assert hasattr(plugin, attribute)
        tests.test_the_yaml_lists_the_options_and_their_defaults()
        marks = {mark.args[0]: mark.args[1] for mark in tests.test_contract.pytestmark}
        for check in marks["check"]:
            for dimensions in marks["dimensions"]:
                tests.test_contract(check, dimensions)
    finally:
        for module in (name, f"test_{name}"):
            sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("scorers", "mine", "kind='scorers' is not a choice. Did you mean 'scorer'"),
        ("scorer", "../mine", "cannot name a plugin"),
        ("scorer", "a/b", "cannot name a plugin"),
        ("scorer", "Mine", "small letters"),
        ("scorer", "2nd", "a letter first"),
        ("scorer", "lambda", "no word of Python"),
        ("scorer", "check", "a word of attrscore plugins"),
        ("scorer", "auc", "There is a scorer 'auc' already"),
        ("scorer", "gini", "There is a scorer 'gini' already"),
        ("scorer", "numpy", "a Python package 'numpy' already"),
    ],
)
def test_names_that_cannot_be_are_refused(kind, name, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        new_plugin(kind, name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pyproject.toml").write_text("precious")
    with pytest.raises(ConfigError, match="exists already, and nothing is overwritten"):
        new_plugin("scorer", "mine", tmp_path)
    assert (tmp_path / "mine" / "pyproject.toml").read_text() == "precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        new_plugin("scorer", "mine", tmp_path / "file")
