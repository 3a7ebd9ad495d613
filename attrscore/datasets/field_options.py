"""Whether the options of fields can be right, before any file is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from attrscore.datasets.normalising import Normalise
from attrscore.errors import ConfigError, choose

if TYPE_CHECKING:
    from attrscore.datasets.fields import Fields

__all__ = ["as_tuple", "check", "pairs"]


def check(given: Fields, /) -> None:
    """Every option that can be wrong by itself.

    :raises ConfigError: the first that is.
    """
    choose(given.normalise, get_args(Normalise), option="normalise")
    choose(given.on_bad_file, ("skip", "raise"), option="on_bad_file")
    choose(given.outside, ("keep", "zero", "mean"), option="outside")
    whole = given.crop_unit == "pixel"
    _require(
        len(given.crop) in (2, 3)
        and all(isinstance(n, int if whole else int | float) and n > 0 for n in given.crop),
        f"crop={list(given.crop)} must be 2 or 3 {'whole ' if whole else ''}numbers of "
        f"{given.crop_unit}s, (Y, X) or (Z, Y, X)",
    )
    if given.axes is not None:
        space = given.axes.replace("C", "")
        ordered = ", ".join(axis for axis in "ZYX" if axis in space)
        _require(
            len(space) == len(given.crop),
            f"crop={list(given.crop)} has {len(given.crop)} numbers but axes={given.axes} has "
            f"{len(space)} spatial axes; give one for each of {ordered}",
        )
    _require(
        given.spacing is None
        or (len(given.spacing) == len(given.crop) and all(v > 0 for v in given.spacing)),
        f"spacing={given.spacing} must be {len(given.crop)} positive numbers of micrometres, "
        "as many as crop",
    )
    _require(
        given.channels is None or _are_channels(given.channels),
        f"channels={given.channels} must be different channel numbers from 0, or null for all",
    )
    _require(
        given.stains is None or len(set(given.stains)) == len(given.stains) > 0,
        f"stains={given.stains} must be different names, or null",
    )
    _check_normalising(given)
    _require(given.level >= 0, f"level={given.level} must be at least 0, the finest")
    _require(given.min_area >= 0, f"min_area={given.min_area} must be at least 0 pixels")
    _require(
        0 <= given.tiny < 1, f"tiny={given.tiny} must be a share of the median area, within 0 and 1"
    )
    _require(
        given.limit is None or given.limit > 0,
        f"limit={given.limit} must be at least 1, or null for all cells",
    )
    _require(
        given.labels is not None or (given.label_column is None and not given.carry),
        "label_column and carry name columns of a table; state it with labels=path.csv",
    )
    _require(
        given.image_table is not None or given.image_file is None,
        f"image_file='{given.image_file}' is a column of image_table; state that too",
    )
    _require(
        given.labels is not None or given.image_table is None,
        "image_table says which image a row of labels is about; state labels=path.csv",
    )
    _require(
        len({given.images, given.masks, given.nuclei}) == 3,
        f"images='{given.images}', masks='{given.masks}' and nuclei='{given.nuclei}' must be "
        "different patterns",
    )
    _require(
        _are_channels(given.segment_channels),
        f"segment_channels={list(given.segment_channels)} must be different channel numbers of the "
        "files, from 0",
    )


def _check_normalising(given: Fields) -> None:
    _require(
        len(given.percentiles) == 2 and 0 <= given.percentiles[0] < given.percentiles[1] <= 100,
        f"percentiles={list(given.percentiles)} must be (lower, upper) within 0 and 100",
    )
    _require(
        (given.ranges is None) == (given.normalise != "fixed"),
        f"normalise={given.normalise} and ranges={given.ranges} do not go together: fixed needs "
        "the ranges that become 0 and 1, and the other rules have none",
    )
    _require(
        given.ranges is None or all(len(pair) == 2 and pair[0] < pair[1] for pair in given.ranges),
        f"ranges={given.ranges} must be [lowest, highest], or one such pair a channel",
    )
    _require(
        given.controls is None or given.normalise not in ("none", "fixed"),
        f"controls='{given.controls}' has no say under normalise={given.normalise}; choose "
        "percentile, max or standard",
    )
    _require(
        given.controls is None or given.labels is not None,
        f"controls='{given.controls}' is about the columns of a table; state it with "
        "labels=path.csv",
    )


def as_tuple(name: str, value: Any, /) -> tuple[Any, ...] | None:
    """A list as a tuple, None as it is.

    :raises ConfigError: a text or a single number.
    """
    if value is None:
        return None
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{name}={value!r} must be a list, such as {name}=[{value}].")
    return tuple(value)


def pairs(value: Any, /) -> tuple[tuple[float, ...], ...] | None:
    """One pair of numbers, or a list of pairs, as a list of pairs."""
    given = as_tuple("ranges", value)
    if given is None or not given:
        return given
    if all(isinstance(each, int | float) for each in given):
        return (given,)
    return tuple(as_tuple("ranges", each) or () for each in given)


def _are_channels(numbers: tuple[int, ...]) -> bool:
    return len(set(numbers)) == len(numbers) > 0 and all(
        isinstance(number, int) and number >= 0 for number in numbers
    )


def _require(condition: bool, sentence: str) -> None:  # noqa: FBT001  # it is the condition
    if not condition:
        raise ConfigError(f"{sentence}.")
