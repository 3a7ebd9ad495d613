"""Options of every registered plugin have types: one that is not of its field's is a sentence."""

from __future__ import annotations

import inspect

import pytest

from attrscore.core.options import defaults_of, fits, types_of
from attrscore.core.registry import METHODS, REGISTRIES, SCORERS
from attrscore.errors import AttrscoreError, ConfigError

WRONG = (object(), None, True, 1.5, -3, "abc", [object()], {"a": 1}, float("nan"))


def of_all():
    for registry in REGISTRIES.values():
        for entry in registry.entries():
            if entry.alias_of is None:
                plugin = registry.load(entry.name)
                yield registry, entry.name, defaults_of(plugin), types_of(plugin)


PLUGINS = [pytest.param(*each, id=f"{each[0].kind}-{each[1]}") for each in of_all()]


@pytest.mark.slow
@pytest.mark.parametrize(("registry", "name", "defaults", "hints"), PLUGINS)
def test_a_wrong_type_is_refused_in_one_sentence(registry, name, defaults, hints):
    required = {n: "x" for n, each in defaults.items() if each is inspect.Parameter.empty}
    for option, default in defaults.items():
        assert default is inspect.Parameter.empty or fits(default, hints[option]), option
        for value in WRONG:
            if fits(value, hints[option]):
                continue
            if isinstance(value, int | float) and fits(str(value), hints[option]):
                continue  # YAML makes numbers of digits
            given = {**required, option: value}
            with pytest.raises(AttrscoreError) as error:
                registry.build(name, **given)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("registry", "name", "options", "message"),
    [
        (METHODS, "integrated_gradients", {"steps": "x"}, "steps='x' must be a whole number"),
        (METHODS, "integrated_gradients", {"steps": None}, "steps=None must be a whole number"),
        (METHODS, "integrated_gradients", {"rule": 3}, "rule=3 is not a choice."),
        (SCORERS, "swap", {"count": 1.5}, "scorer 'swap': count=1.5 must be a whole number."),
        (SCORERS, "swap", {"count": "x"}, "scorer 'swap': count=x must be a whole number."),
        (SCORERS, "swap", {"seed": None}, "scorer 'swap': seed=null must be a whole number."),
    ],
)
def test_the_sentence(registry, name, options, message):
    with pytest.raises(ConfigError) as error:
        registry.build(name, **options)
    assert message in str(error.value)
