"""Plugins by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from attrscore.errors import ConfigError
from attrscore.registry import METHODS, REGISTRIES, SCORERS, Configured, Registry


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
    found = {name: [EntryPoint(name, value, registry.group)] for name, value in points.items()}
    monkeypatch.setitem(registry.__dict__, "_entry_points", found)


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
