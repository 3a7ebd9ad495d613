"""The conformance kit: what every plugin must hold, ours and a stranger's alike.

In a plugin's own tests::

    import pytest
    from attrscore.testing import checks
    from mypackage import nucleus_share

    @pytest.mark.parametrize("dimensions", [2, 3])
    @pytest.mark.parametrize("check", checks("scorer"), ids=str)
    def test_contract(check, dimensions):
        check(nucleus_share, dimensions=dimensions)

or all in one, ``assert_conforms("scorer", nucleus_share)``. On the command line:
``attrscore plugins check nucleus_share``. A check says in a sentence what does not hold, and where.
"""

from __future__ import annotations

from typing import Any

from attrscore.core.registry import REGISTRIES
from attrscore.errors import choose
from attrscore.testing import of_datasets, of_methods, of_models, of_scorers, of_targets, samples
from attrscore.testing.contract import Check, NotConforming, Outcome, Subject, ask

__all__ = [
    "Check",
    "NotConforming",
    "Outcome",
    "Subject",
    "assert_conforms",
    "checks",
    "conformance",
    "samples",
]

_OF = {
    "dataset": of_datasets.CHECKS,
    "method": of_methods.CHECKS,
    "model": of_models.CHECKS,
    "scorer": of_scorers.CHECKS,
    "target": of_targets.CHECKS,
}


def checks(kind: str, /) -> tuple[Check, ...]:
    """The contract of a kind of plugin, one check after another.

    :raises ConfigError: no such kind.
    """
    return _OF[choose(kind, _OF, option="kind")]


def conformance(kind: str, plugin: Any, /, *, name: str = "", **options: Any) -> list[Outcome]:
    """How a plugin answers every check, in 2D and 3D.

    ``plugin`` is a function, a class, a plugin value or a registered name; ``options`` are those it
    is built with.

    :raises ConfigError: no such kind or plugin, or options that do not fit it.
    """
    asked = checks(kind)
    registry = REGISTRIES[kind]
    if isinstance(plugin, str):
        name, plugin = name or plugin, registry.load(plugin)
    if options or isinstance(plugin, type) or hasattr(plugin, "__code__"):
        name = name or plugin.__name__
        plugin = registry.construct(plugin, name, options)
    return ask(asked, plugin, **({"name": name} if name else {}))


def assert_conforms(kind: str, plugin: Any, /, **options: Any) -> None:
    """As :func:`conformance`, for a test.

    :raises NotConforming: every check that does not hold, a line each.
    """
    broken = [each for each in conformance(kind, plugin, **options) if each.state == "broken"]
    if broken:
        raise NotConforming("\n".join(each.message for each in broken))
