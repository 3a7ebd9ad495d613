"""Where crops lie in the fields that they were cut from, so that maps can be laid back there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Field", "HasPlaces", "Places"]


@dataclass(frozen=True, eq=False)
class Places:
    """The places of n crops, in the pixels of their fields."""

    field: tuple[str, ...]
    """The name of each one's field."""
    number: NDArray[np.int64]
    """(n,) of its cell in the field's label image."""
    first: NDArray[np.float64]
    """(n, axes) where it begins; outside the field where it hangs over the border."""
    extent: NDArray[np.float64]
    """(n, axes) how many pixels of the field it spans: not those of the crop where it was
    resampled."""


class Field(Protocol):
    """One field decoded."""

    @property
    def pixels(self) -> NDArray[Any]:
        """(C, *S)."""
        ...

    @property
    def labels(self) -> NDArray[Any]:
        """One number a cell, *S."""
        ...


@runtime_checkable
class HasPlaces(Protocol):
    """A dataset whose cells were cut from fields."""

    def places(self, rows: Sequence[int], /) -> Places:
        """Where the crops of these table rows lie."""
        ...

    def field(self, name: str, /) -> Field:
        """The field of this name."""
        ...
