"""What a number depends on, and the hashes that name it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from attrscore.errors import ConfigError, StoreError

SCHEMA = 1
"""Version of the on-disk format; a reader refuses newer ones."""

Range = tuple[int, int]

MOST_PARTS = 1_000_000
"""Of a job: what claims more is forged, or should be sharded."""


def canonical(value: Any, /) -> str:
    """One text for all spellings of the same JSON value: sorted keys, no spaces, tuples as lists.

    >>> canonical({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'

    :raises ConfigError: a value that JSON cannot hold, or that is not finite, named.
    """
    return json.dumps(
        _plain(value, ""),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )


def identify(value: Any, /) -> str:
    """16 hexadecimal digits that name a JSON value by its content (BLAKE2b of its canonical text).

    >>> identify({"a": 1, "b": 2}) == identify({"b": 2, "a": 1})
    True
    """
    return hashlib.blake2b(canonical(value).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class Plugin:
    """A method or scorer as configured: its name in the results, and what determines its numbers.

    ``origin`` is package and version of its code (:meth:`attrscore.core.registry.Registry.origin`).
    """

    key: str
    name: str = ""
    """The registered name; the key where left empty."""
    options: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.key)
        object.__setattr__(self, "options", _plain(self.options, self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plugin) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def text(self) -> str:
        """The canonical identity; 1, 1.0 and True differ in it, as by ``==`` they do not."""
        return canonical(self.identity)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Key, name, options and origin as JSON."""
        return {
            "key": self.key,
            "name": self.name,
            "options": dict(self.options),
            "origin": self.origin,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What may differ under one key: flattened options, ``name`` and ``origin``."""
        return flatten({k: v for k, v in self.identity.items() if k != "key"})


@dataclass(frozen=True)
class Condition:
    """One method at one layer under one scorer; with a base, all that a column depends on."""

    method: Plugin
    layer: str
    """The resolved name, never a rule such as ``last_conv``; INPUT for maps on the input."""
    scorer: Plugin

    @property
    def identity(self) -> dict[str, Any]:
        """Method, layer and scorer as JSON."""
        return {
            "method": self.method.identity,
            "layer": self.layer,
            "scorer": self.scorer.identity,
        }

    @property
    def triple(self) -> tuple[str, str, str]:
        """The keys of method, layer and scorer, as in the results."""
        return self.method.key, self.layer, self.scorer.key


@dataclass(frozen=True, eq=False)
class Job:
    """What one invocation computes: conditions that share a base, over all rows of a dataset.

    ``base`` holds all else that determines the numbers: model with options and hash of its weights,
    dataset fingerprint, target, heat options, seed, keep, batch size and kind of device (other ones
    round otherwise). Paths, threads, launcher and labels are not in it.

    :raises ConfigError: two different plugins under one key, or a value that has no identity.
    """

    base: Mapping[str, Any]
    conditions: tuple[Condition, ...]
    rows: int
    part_rows: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", _plain(self.base, "base"))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        if self.rows < 0 or self.part_rows < 1:
            raise ConfigError(
                f"A job needs rows >= 0 and part_rows >= 1; given: {self.rows}, {self.part_rows}."
            )
        if self.rows > MOST_PARTS * self.part_rows:
            raise ConfigError(
                f"{self.rows} rows in parts of {self.part_rows} are more than {MOST_PARTS} parts; "
                "cut the dataset into shards."
            )
        for kind in ("method", "scorer"):
            known: dict[str, Plugin] = {}
            for condition in self.conditions:
                plugin: Plugin = getattr(condition, kind)
                if known.setdefault(plugin.key, plugin) != plugin:
                    raise ConfigError(
                        f"Two different {kind}s are called '{plugin.key}' in one job; "
                        f"give one of them another key and say name: {plugin.name}."
                    )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that the id is made of, as JSON; the order of the conditions does not matter."""
        return {
            "schema": SCHEMA,
            "base": dict(self.base),
            "conditions": sorted((c.identity for c in self.conditions), key=canonical),
            "rows": self.rows,
            "part_rows": self.part_rows,
        }

    @cached_property
    def id(self) -> str:
        """The name of the job's folder."""
        return identify(self.identity)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The row ranges (start, stop) of its parts, whatever number of workers computes them.

        >>> Job({}, (), rows=5, part_rows=2).ranges
        ((0, 2), (2, 4), (4, 5))
        """
        return tuple(
            (start, min(start + self.part_rows, self.rows))
            for start in range(0, self.rows, self.part_rows)
        )

    def begins_as(self, other: Job, /) -> bool:
        """Whether the other computes the same, be it in parts of another size."""
        return replace(self, part_rows=other.part_rows).id == other.id

    @property
    def scorers(self) -> dict[str, Plugin]:
        """Key -> scorer."""
        return {c.scorer.key: c.scorer for c in self.conditions}

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any], /) -> Job:
        """The job that has this identity.

        :raises StoreError: written by a newer attrscore, or not an identity.
        """
        schema = identity.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise StoreError(newer(schema), kind="newer")
        try:
            conditions = tuple(
                Condition(Plugin(**c["method"]), str(c["layer"]), Plugin(**c["scorer"]))
                for c in identity["conditions"]
            )
            return cls(
                identity["base"], conditions, int(identity["rows"]), int(identity["part_rows"])
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"The identity of a job is not whole ({type(error).__name__}: {error})."
            ) from error


def newer(schema: int, /) -> str:
    """What to say about a file of a later schema."""
    return (
        f"It was written by a newer attrscore (schema {schema}; this one reads up to {SCHEMA}); "
        "upgrade with: pip install --upgrade attrscore."
    )


def flatten(value: Mapping[str, Any], /, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; the level called ``options`` is left out where it can be.

    >>> flatten({"model": {"name": "tiny", "options": {"width": 8}}})
    {'model.name': 'tiny', 'model.width': 8}
    """
    flat: dict[str, Any] = {}
    for key, item in value.items():
        inner = item if isinstance(item, Mapping) else None
        if inner is not None and key == "options" and not set(inner) & set(value):
            flat |= flatten(inner, prefix)
        elif inner is not None:
            flat |= flatten(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = canonical(item) if isinstance(item, list) else item
    return flat


def _plain(value: Any, where: str) -> Any:
    """``value`` as dict, list, str, int, float, bool and None only."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy and torch scalars
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ConfigError(f"'{where}' is {value}; only finite numbers can name a result.")
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise ConfigError(
        f"'{where}' is a {type(value).__name__}; what names a result must be text, numbers, "
        "lists or mappings."
    )
