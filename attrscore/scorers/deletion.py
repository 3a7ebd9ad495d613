"""The response while the hottest voxels are taken away first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.faithfulness import Curve

__all__ = ["Deletion"]


@SCORERS.register("deletion")
@dataclass(frozen=True)
class Deletion(Curve):
    """Area under the response while the hottest voxels are taken away first; low is faithful.

    From 0 to all voxels in ``steps`` equal steps, by the trapezoid rule; what is taken away is
    filled (see :func:`attrscore.scorers.response.filling`). Costs ``steps`` + 1 forwards a cell and
    map. Petsiuk, Das, Saenko, BMVC 2018 (there filled with one constant, a step at least a row).
    """

    readings: ClassVar[Declared] = {"score": {"better": "lower", "chance": None}}

    takes_away = True
