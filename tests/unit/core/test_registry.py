"""Plugins by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from attrscore.core.registry import (
    INTERFACE,
    METHODS,
    REGISTRIES,
    SCORERS,
    Configured,
    Installed,
    Registry,
)
from attrscore.errors import AttrscoreWarning, ConfigError


@pytest.fixture
def registry() -> Registry:
    """A registry of its own whose home registers nothing."""
    return Registry("scorer", "attrscore.errors")


def nucleus_share(heat, run, /, *, region: str = "nucleus"):
    return heat, region


def test_a_function_takes_its_keyword_only_parameters_as_options(registry):
    registry.register("nucleus_share")(nucleus_share)
    built = registry.build("nucleus_share", region="cell")
    assert built("heat", "run") == ("heat", "cell")
    assert repr(built) == "nucleus_share(region='cell')"
    assert isinstance(built, Configured)
    assert registry.options("nucleus_share") == {"region": "nucleus"}
    assert registry.origin("nucleus_share").startswith("local ")


def test_wrong_options_fail_when_built(registry):
    @registry.register("strict")
    @dataclass(frozen=True)
    class Strict:
        needed: int

    with pytest.raises(ConfigError, match="has no option 'neded'. Did you mean 'needed'"):
        registry.build("strict", neded=1)
    with pytest.raises(ConfigError, match="'strict' needs the option needed, which has no default"):
        registry.build("strict")
    with pytest.raises(ConfigError, match="No scorer is called 'strickt'. Did you mean 'strict'"):
        registry.build("strickt")


def test_two_plugins_of_one_name(registry):
    registry.register("mine")(nucleus_share)
    registry.register("mine")(nucleus_share)  # the notebook cell was run again
    with pytest.raises(ConfigError, match="already registered"):
        registry.register("mine")(test_two_plugins_of_one_name)
    SCORERS.load("grad_camo")
    with pytest.raises(ConfigError, match=r"already registered by attrscore\.scorers"):
        SCORERS.register("grad_camo")(nucleus_share)


def install(monkeypatch, registry, **points: str) -> None:
    found = {
        name: [
            Installed(registry.kind, EntryPoint(name, value, registry.group))
            for value in values.split()
        ]
        for name, values in points.items()
    }
    monkeypatch.setitem(registry.__dict__, "_installed", found)


def test_installed_plugins_are_listed_without_import_and_break_alone(monkeypatch, registry):
    install(monkeypatch, registry, broken="no_such_package.x:f", fine="math:sqrt")
    assert registry.names() == ["broken", "fine"]
    assert registry.load("fine")(4) == 2
    with pytest.raises(ConfigError, match="'broken' of the package no_such_package.x:f cannot"):
        registry.build("broken")


def test_an_installed_plugin_cannot_shadow_or_clash(monkeypatch, registry):
    install(monkeypatch, registry, same="math:sqrt")
    registry.register("same")(nucleus_share)
    with pytest.raises(ConfigError, match="claimed by this process and math:sqrt"):
        registry.load("same")


def test_two_packages_of_one_name_are_both_named(monkeypatch, registry):
    install(monkeypatch, registry, same="math:sqrt cmath:sqrt", fine="math:exp")
    with pytest.raises(ConfigError, match="claimed by math:sqrt and cmath:sqrt; uninstall one"):
        registry.load("same")
    assert registry.names() == ["fine"]
    told = {(entry.name, entry.package): entry.problem for entry in registry.examined()}
    assert told["fine", "math:exp"] == ""
    assert "claimed by" in told["same", "cmath:sqrt"]


def test_one_of_ours_is_not_shadowed(monkeypatch):
    install(monkeypatch, SCORERS, auc="math:sqrt")
    with pytest.warns(AttrscoreWarning, match="'auc' is attrscore's own; that of the package math"):
        assert SCORERS.load("auc").__module__ == "attrscore.scorers.localisation"
    told = [entry for entry in SCORERS.examined() if entry.name == "auc"]
    assert [(entry.package, bool(entry.problem)) for entry in told] == [
        ("attrscore", False),
        ("math:sqrt", True),
    ]


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (INTERFACE + 1, f"built for interface {INTERFACE + 1} of attrscore, and this one, "),
        ("2", "attrscore_interface = '2'; expected a whole number"),
        (INTERFACE, ""),
    ],
)
@pytest.mark.parametrize("where", ["function", "module"])
def test_a_newer_interface_is_named(monkeypatch, registry, stated, words, where):
    module = ModuleType("strangers")
    module.scorer = lambda heat, run: heat
    module.scorer.__module__ = "strangers"
    place = module.scorer if where == "function" else module
    place.attrscore_interface = stated
    monkeypatch.setitem(sys.modules, "strangers", module)
    install(monkeypatch, registry, strange="strangers:scorer")
    (entry,) = registry.examined()
    assert words in entry.problem
    assert bool(words) == bool(entry.problem)


def test_a_name_that_settings_cannot_hold_and_what_is_no_plugin(monkeypatch, registry):
    install(monkeypatch, registry, **{"my-scorer": "math:sqrt", "number": "math:pi"})
    dash, number = registry.examined()
    assert "letters, digits and underscores alone" in dash.problem
    assert "is a float; expected a class or a function" in number.problem


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_built_in_says_what_it_is(kind):
    for entry in REGISTRIES[kind].entries():
        plugin = REGISTRIES[kind].load(entry.name)
        assert (plugin.__doc__ or "").strip(), entry
        assert entry.package == "attrscore"
        assert REGISTRIES[kind].origin(entry.name).startswith("attrscore ")


def test_plugins_are_values():
    built = METHODS.build("integrated_gradients", steps=7)
    assert repr(built) == repr(METHODS.build("integrated_gradients", steps=7))
    assert built == METHODS.build("ig", steps=7)
    assert METHODS.name_of(built) == "integrated_gradients"


@pytest.mark.parametrize("name", ["Grad_Cam", "GRAD_CAM", "Gradcam"])
def test_a_name_that_differs_by_capitals_alone_is_refused(name):
    registered = METHODS.names()
    if name.lower() not in registered:
        pytest.skip("no alias of that name")
    with pytest.raises(ConfigError, match="by capital letters alone"):
        METHODS.register(name)(lambda run, /: {})
    assert METHODS.names() == registered


def test_an_installed_name_that_differs_by_capitals_alone_is_refused(monkeypatch):
    point = EntryPoint("Grad_Cam", "os:getcwd", "attrscore.methods")
    found = {"Grad_Cam": [Installed("method", point)]}
    monkeypatch.setitem(METHODS.__dict__, "_installed", found)
    with pytest.raises(ConfigError, match="by capital letters alone"):
        METHODS.load("Grad_Cam")
    assert "Grad_Cam" not in METHODS.names()


@pytest.mark.parametrize("name", [lambda heat, run: None, "", "two words", "1st", "a=b", "x.y"])
def test_a_name_can_be_written_on_a_command_line(name):
    with pytest.raises(ConfigError, match="cannot name a scorer: letters, digits, _ and -"):
        SCORERS.register(name)
