"""The response while the hottest voxels are shown first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.scorers.faithfulness import Curve

__all__ = ["Insertion"]


@SCORERS.register("insertion")
@dataclass(frozen=True)
class Insertion(Curve):
    """Area under the response while the hottest voxels are shown first; high is faithful.

    Begins with the filling (see :func:`attrscore.scorers.response.filling`) and ends with the cell,
    in ``steps`` equal steps, by the trapezoid rule. Costs ``steps`` + 1 forwards a cell and map.
    Petsiuk, Das, Saenko, BMVC 2018 (there from a blurred image).
    """

    readings: ClassVar[Declared] = {"score": {"better": "higher", "chance": None}}

    takes_away = False
