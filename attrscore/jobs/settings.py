"""The settings of a job and their types: what ``conf/config.yaml`` holds, checked before it runs.

Options of plugins are not here: the registry checks them against the plugins' own fields.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from attrscore.core.heat import HeatOptions
from attrscore.core.layouts import LayoutOptions
from attrscore.core.options import as_written, fits, words
from attrscore.engine.preflight import Unfair
from attrscore.errors import ConfigError, did_you_mean

Count = Annotated[int, 1, 2**31]
Seed = Annotated[int, 0, 2**62]
Positive = Annotated[float, math.ulp(0.0), 1e308]
Name = str | int | float


@dataclass(frozen=True)
class Label:
    """What the results call the model and the dataset."""

    model: Name | None = None
    dataset: Name | None = None


@dataclass(frozen=True)
class TrainSettings:
    """Of ``attrscore train``."""

    when: Literal["never", "missing"] = "never"
    dataset: Mapping[str, Any] | None = None
    output: str = "weights.safetensors"
    epochs: Annotated[int, 0, 2**31] = 10
    batch_size: Count = 32
    learning_rate: Positive = 0.003
    split_by: str | None = "Metadata_Well"
    held_out: Annotated[float, 0, 1] = 0.25
    augment: str = "none"
    balance: bool = False
    seed: Seed | None = None
    watched: Annotated[int, 0, 2**31] = 32


@dataclass(frozen=True)
class Settings:
    """Of a job, beside its plugins."""

    heat: HeatOptions
    layout: LayoutOptions
    label: Label
    train: TrainSettings
    layers: Name | Sequence[Name] = "last_conv"
    depth: Name | Sequence[Name] | None = None
    output: str | int | None = None
    precision: str | None = None
    results: str = "results"
    fuse: bool = True
    rerun: Literal["missing", "failed", "all"] = "missing"
    keep: Literal["none", "native"] = "none"
    objective: str | None = None
    figures: Literal["all", "none"] = "all"
    show: Sequence[Name] = ()
    batch_size: Count = 32
    device: str = "auto"
    readers: Annotated[int, 0, 4096] = 0
    threads: Annotated[int, 1, 4096] | None = None
    seed: Seed = 0
    pool: Count = 64
    accept: Sequence[Unfair] = ()
    trust: Sequence[str] = ()


def check_settings(settings: Mapping[str, Any], /) -> None:
    """Refuse the first setting of a wrong type, or that there is none of in a group of ours.

    Settings of another name at the top are the user's own, which others may refer to.

    :raises ConfigError: named, with what was expected.
    """
    for problem in _problems(settings, Settings, ""):
        raise ConfigError(problem)


def check_results(path: Path, /) -> None:
    """Refuse a folder of results that cannot be made or written into.

    :raises ConfigError: what is there instead.
    """
    above = path
    try:
        what = "" if stat.S_ISDIR(path.stat().st_mode) else "is no folder"
    except FileNotFoundError:
        what = "is a link to nothing" if path.is_symlink() else ""
        above = next(each for each in path.absolute().parents if each.exists())
    except OSError as error:
        what = f"cannot be used: {error.strerror}"
    if not what and not os.access(above, os.W_OK | os.X_OK):
        what = f"cannot be written: {above} is not yours to write into"
    if what:
        raise ConfigError(f"results={path} {what}; give another folder.")


def _problems(settings: Mapping[str, Any], schema: type, at: str) -> Iterator[str]:
    hints = get_type_hints(schema, include_extras=True)
    for name, value in settings.items():
        path = f"{at}{name}"
        hint = hints.get(name)
        if hint is None:
            if at:
                yield f"There is no setting {name!r} in {at[:-1]}. {did_you_mean(name, hints)}"
        elif is_dataclass(hint):
            if isinstance(value, Mapping):
                yield from _problems(value, hint, f"{path}.")  # type: ignore[arg-type]  # the class
            else:
                yield f"{path}={as_written(value)} must be settings of {path}: {path}.NAME=VALUE."
        elif get_origin(hint) is Literal and not fits(value, hint):
            known = get_args(hint)
            yield f"{path}={value!r} is not a choice. {did_you_mean(value, known)}"
        elif not fits(value, hint):
            yield f"{path}={as_written(value)} must be {words(hint)}."
