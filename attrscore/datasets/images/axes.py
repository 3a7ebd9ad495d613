"""Which axis of a file is which: stated or read from metadata, never guessed from sizes.

A layout has a letter of CZYX for each axis of the file, ``-`` for one of length 1 that is dropped.
"""

from __future__ import annotations

from pathlib import Path

from attrscore.datasets.images.files import shown
from attrscore.datasets.images.stored import Stored
from attrscore.errors import ConfigError, DataError

__all__ = ["ORDER", "check_axes", "known", "long_axes", "named", "stated"]

ORDER = "CZYX"


def check_axes(axes: str, /) -> str:
    """``axes`` in capitals, if it names Y, X and at most Z and C, each once.

    >>> check_axes("cyx")
    'CYX'
    """
    axes = axes.upper()
    if len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes) <= set(ORDER):
        raise ConfigError(
            f"axes={axes!r} must name Y and X, with Z and C where the files have them, each once: "
            "YX, CYX, ZYX, CZYX, or another order; null reads them from the files."
        )
    return axes


def known(axes: str, /) -> bool:
    """Whether each is one of ours."""
    return set(axes) <= set(ORDER)


def long_axes(stored: Stored, /) -> tuple[int, ...]:
    """The shape as people think of it: without axes of length 1."""
    return tuple(extent for extent in stored.pixels.shape if extent != 1)


def named(stored: Stored, path: Path, /) -> str:
    """The axes as the file names them; those of length 1 are dropped, except Y and X."""
    shape = stored.pixels.shape
    order = "".join(
        "-" if extent == 1 and axis not in "YX" else axis
        for axis, extent in zip(stored.axes, shape, strict=True)
    )
    axes = order.replace("-", "")
    if not {"Y", "X"} <= set(axes) <= set(ORDER) or len(set(axes)) != len(axes):
        raise DataError(
            f"'{shown(path)}' of shape {long_axes(stored)} does not say what its axes are (read: "
            f"{axes}); state them with dataset.axes, such as ZYX or CYX."
        )
    return order


def stated(stored: Stored, axes: str, path: Path, /) -> str:
    """``axes`` laid over those of the file: all of them, those longer than 1, or those it names."""
    shape = stored.pixels.shape
    long = [extent != 1 for extent in shape]
    spare = [e == 1 and a not in axes for a, e in zip(stored.axes, shape, strict=True)]
    if len(axes) == len(shape):
        order = axes
    elif len(axes) == sum(long):
        letters = iter(axes)
        order = "".join(next(letters) if kept else "-" for kept in long)
    elif set(axes) <= set(stored.axes) and len(axes) == len(shape) - sum(spare):
        order = "".join("-" if s else a for a, s in zip(stored.axes, spare, strict=True))
    else:
        raise DataError(
            f"axes={axes} names {len(axes)} axes but '{shown(path)}' has the shape "
            f"{long_axes(stored)}; state the axes that the file has."
        )
    contrary = any(
        laid in "ZYX" and laid != own for laid, own in zip(order, stored.axes, strict=True)
    )
    if stored.definite and contrary:
        raise DataError(
            f"axes={axes} is not how '{shown(path)}' is stored, whose format says "
            f"{stored.axes}; leave dataset.axes out."
        )
    return order
