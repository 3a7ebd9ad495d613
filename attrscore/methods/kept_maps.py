"""Maps that an earlier job kept, for new scorers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attrscore.core.contracts import INPUT, Maps
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.errors import ConfigError, UnsupportedError, did_you_mean

if TYPE_CHECKING:
    from attrscore import store

__all__ = ["KeptMaps"]

TOLERANCE = 1e-3
"""Explained scores further apart than this share of their size are of another model or cell."""


@METHODS.register("kept")
@dataclass(frozen=True, kw_only=True)
class KeptMaps:
    """The maps that an earlier job kept with ``keep=native``.

    For new scorers and heat options, where a method costs much more than a pass: this one costs no
    more than the shared forward and backward. Kept maps are rounded to float16 with a scale each: a
    share of heat without channels that cancel moves by at most 2**-12 of itself. Cells whose map
    is not there are NaN. Maps of another model, target or data are refused: the score that was
    explained then must be that of now.

    :raises ConfigError: no maps of such a method there.
    """

    results: str
    """The folder of results, or of a job."""
    method: str = "grad_cam"
    """Whose maps: its name in those results."""

    def __post_init__(self) -> None:
        known = {each.method.key for each in self._all}
        if self.method not in known:
            raise ConfigError(
                f"{self.results} keeps no maps of {self.method!r}. "
                f"{did_you_mean(self.method, known)} Maps are kept with keep=native."
            )

    @property
    def explains(self) -> str:
        """What the method explained: layers, or the input."""
        return INPUT if {each.layer for each in self._maps} == {INPUT} else "layers"

    @property
    def identity(self) -> dict[str, Any]:
        """The jobs whose maps they are, not where they lie."""
        return {"results": sorted({each.folder.job.id for each in self._maps})}

    def __call__(self, run: Pass, /) -> Maps:
        """Layer -> (N, C, *s), or INPUT -> (N, C, *S)."""
        self._check(run)
        wanted = [INPUT] if self.explains == INPUT else list(run.layers)
        return {layer: self._read(run, layer) for layer in wanted if self._of(layer, run)}

    @cached_property
    def _all(self) -> list[store.Kept]:
        from attrscore import store

        return store.kept(self.results)

    @property
    def _maps(self) -> list[store.Kept]:
        return [each for each in self._all if each.method.key == self.method]

    def _of(self, layer: str, run: Pass) -> list[store.Kept]:
        return [
            each
            for each in self._maps
            if each.layer == layer and each.target in (None, str(run.target))
        ]

    def _read(self, run: Pass, layer: str) -> torch.Tensor:
        found: dict[str, np.ndarray[Any, Any]] = {}
        for each in self._of(layer, run):
            here = [name for name in run.batch.ids if name in each.rows and name not in found]
            if here:
                found |= dict(zip(here, each.read(here), strict=True))
        if not found:
            raise UnsupportedError(
                f"{self.results} keeps no map of {self.method} at {layer} for these cells."
            )
        blank = np.full_like(next(iter(found.values())), np.nan)
        maps = np.stack([found.get(name, blank) for name in run.batch.ids])
        return torch.from_numpy(maps).to(run.batch.inputs)

    @cached_property
    def _explained(self) -> Mapping[tuple[str, str], float]:
        """Target and cell -> the score that was explained."""
        from attrscore import store

        known: dict[tuple[str, str], float] = {}
        columns = ("id", "method", "target", "explained")
        for part in dict.fromkeys(part for each in self._maps for part in each.parts):
            table = store.read_table(part, columns)
            table = table[table["method"] == self.method]
            names = zip(table["target"].astype(str), table["id"].astype(str), strict=True)
            known |= dict(zip(names, table["explained"].astype(float), strict=True))
        return known

    def _check(self, run: Pass) -> None:
        now = run.value.double().cpu().numpy()
        then = np.array([self._explained.get((str(run.target), i), np.nan) for i in run.batch.ids])
        apart = np.abs(now - then) > TOLERANCE * np.maximum(1.0, np.abs(then))
        if apart.any() or (np.isnan(then).all() and np.isfinite(now).any()):
            raise UnsupportedError(
                f"The maps in {self.results} are of another model, target or data: the score of "
                f"{run.batch.ids[int(apart.argmax())]} was another."
            )
