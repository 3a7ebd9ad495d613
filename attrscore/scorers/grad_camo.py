"""Grad-CAMO: the share of a model's attention that lies on the cell.

Gopalakrishnan, Ma, Xie: Grad-CAMO: Learning Interpretable Single-Cell Morphological Profiles from
3D Cell Painting Images, CVPR workshops 2024, pp. 6988-6996, arXiv 2403.17615. The authors
published no code; every step that the paper leaves open is an option, written into the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrscore.core.contracts import Reasoned
from attrscore.core.grids import unresolvable
from attrscore.core.heat import Heat
from attrscore.core.passes import Pass
from attrscore.core.readings import Declared
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError, DataError, did_you_mean
from attrscore.scorers._ranks import roc_auc
from attrscore.scorers.shares import log_density_ratio

__all__ = ["GradCAMO", "mask_ratio"]

UNRESOLVED = "the grid cannot score above chance in the region {region!r}."


def mask_ratio(heat: Tensor, mask: Tensor, /) -> Tensor:
    """The Grad-CAMO formula: sum of heat on the mask over the sum of heat.

    Non-negative (N, *S) and mask (N, *S), bool or within [0, 1] -> (N,) float64 within [0, 1]; NaN
    where the heat has no mass, the mask is empty or full, or a value is not finite.

    >>> heat = torch.tensor([[0.6, 0.0, 0.4, 0.0]])
    >>> mask_ratio(heat, torch.tensor([[True, False, False, False]]))
    tensor([0.6000], dtype=torch.float64)
    """
    if heat.shape != mask.shape:
        raise DataError(
            "heat and mask must have one shape; "
            f"given: {tuple(heat.shape)} and {tuple(mask.shape)}."
        )
    if bool((heat < 0).any()):
        raise DataError("heat must not be negative; settle the sign first: heat.clamp(min=0).")
    weights = mask.double().flatten(1)
    values = heat.double().flatten(1)
    area = weights.mean(1)
    ratio = (values * weights).sum(1) / values.sum(1)
    return torch.where((area > 0) & (area < 1), ratio, torch.nan)


@SCORERS.register(
    "grad_camo",
    aliases=(
        "attribution_localisation",  # Kohlbrenner et al., IJCNN 2020
        "energy_pointing_game",  # Wang et al., CVPR workshops 2020
        "localisation_score",  # Rao et al., CVPR 2022
        "relevance_mass_accuracy",  # Arras et al., Information Fusion 2022
        "saliency_coverage",  # xaitk-saliency
    ),
)
@dataclass(frozen=True)
class GradCAMO:
    """The share of heat on the cell, and what it must be read with.

    With S the share, f the area fraction of the region, and [lowest, highest] the interval that the
    layer's grid can attain at all, the columns are

    - ``score``: S; 0 worst, 1 best, but a map that ignores the mask scores f
    - ``chance``: f · ``lift``: S / f · ``above_chance``: (S - f) / (1 - f)
    - ``log_odds``: ln[(S / f) / ((1 - S) / (1 - f))]
    - ``lowest``, ``highest``: the attainable interval · ``resolved``: (S - f) / (highest - f)
    - ``cell``, ``neighbours``, ``background``: shares of heat; they sum to 1, and the last two are
      NaN where the batch has no region ``neighbours``
    - ``cell_vs_neighbours``: ln of the density of heat on the cell over that on the neighbours;
      NaN where there is no neighbour
    - ``log_odds.clipped``, ``cell_vs_neighbours.clipped``: 1 where one of the two densities was
      below what the layer's grid resolves, 1 / its number of positions, and was taken as that
      (:func:`attrscore.scorers.shares.log_density_ratio`); else 0
    - ``auc``: ROC-AUC of the resized map against the mask; 0.5 is chance for any f

    Chance has one value for any f in ``lift``, ``above_chance``, ``log_odds``, ``resolved``,
    ``cell_vs_neighbours`` and ``auc``, but that does not free them of size. ``above_chance`` and
    ``resolved`` grow with area. ``log_odds``, ``cell_vs_neighbours`` and ``auc`` do not where the
    map knows nothing of the cell; under a model that reads it, heat spills over the edge by a
    width of the grid, and in 3D all three fall with size. Compare groups of cells of unlike size
    with :func:`attrscore.stats.adjusted`.

    All are NaN where the row's status says so. Shares need no resized map, only ``auc`` does:
    ``auc=False`` leaves that column out, and with it most of the time that scoring takes.

    >>> import attrscore
    >>> from attrscore.testing.samples import cells, net
    >>> (result,) = attrscore.run(net(), cells(), scorers=GradCAMO(), layers="high")
    >>> result.columns["grad_camo.lift"].round(3)
    array([1.378, 0.625, 0.3  , 0.   ])
    """

    readings: ClassVar[Declared] = {
        "score": {
            "range": (0, 1),
            "better": "higher",
            "says": "share of the attribution on the cell",
        },
        "chance": {"range": (0, 1), "chance": None, "says": "area fraction of the cell"},
        "lift": {
            "better": "higher",
            "range": (0, None),
            "chance": 1,
            "says": "share on the cell / chance",
        },
        "above_chance": {"better": "higher", "range": (None, 1), "chance": 0},
        "log_odds": {"better": "higher", "chance": 0},
        "*.clipped": {"range": (0, 1), "chance": None},
        "lowest": {"range": (0, 1), "chance": None},
        "highest": {"range": (0, 1), "chance": None},
        "resolved": {"better": "higher", "range": (None, 1), "chance": 0},
        "cell": {"range": (0, 1), "better": "higher", "chance": None},
        "neighbours": {
            "range": (0, 1),
            "chance": None,
            "says": "share of the attribution on neighbours",
        },
        "background": {
            "range": (0, 1),
            "chance": None,
            "says": "share of the attribution on background",
        },
        "cell_vs_neighbours": {"better": "higher", "chance": 0},
        "auc": {"better": "higher", "range": (0, 1), "chance": 0.5},
    }

    region: str = "cell"
    """A region of the dataset."""
    auc: bool = True
    """The column auc too, which takes longer than all others together."""

    def __post_init__(self) -> None:
        if not isinstance(self.auc, bool):
            raise ConfigError(f"auc={self.auc!r} must be true or false.")

    def __call__(self, heat: Heat, run: Pass, /) -> Mapping[str, Tensor]:
        """Column -> (N,) float64."""
        regions = run.batch.regions
        if self.region not in regions:
            raise DataError(
                f"grad_camo needs the region {self.region!r}. {did_you_mean(self.region, regions)}"
            )
        region = regions[self.region]
        total = heat.mass()
        share = heat.mass(region) / total
        chance = heat.area(region)
        lowest, highest = heat.attainable(region)
        odds, clipped = log_density_ratio(share, chance, 1 - share, 1 - chance, finest=heat.finest)
        columns = {
            "score": share,
            "chance": chance,
            "lift": share / chance,
            "above_chance": (share - chance) / (1 - chance),
            "log_odds": odds,
            "log_odds.clipped": clipped,
            "lowest": lowest,
            "highest": highest,
            "resolved": torch.where(
                unresolvable(highest, chance), torch.nan, (share - chance) / (highest - chance)
            ),
            **self._shares(heat, share, total, regions),
        }
        if self.auc:
            columns["auc"] = heat.once(("auc", self.region), lambda: roc_auc(heat.full(), region))
        undefined = heat.undefined(region)
        return Reasoned(
            {name: values.masked_fill(undefined, torch.nan) for name, values in columns.items()},
            {
                "no region 'neighbours' in this dataset.": columns["neighbours"].isnan(),
                "no neighbours in the crop.": columns["cell_vs_neighbours"].isnan(),
                UNRESOLVED.format(region=self.region): columns["resolved"].isnan(),
            },
        )

    def _shares(
        self, heat: Heat, share: Tensor, total: Tensor, regions: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        unknown = torch.full_like(share, torch.nan)
        if "neighbours" not in regions:
            return {
                "cell": share,
                "neighbours": unknown,
                "background": unknown,
                "cell_vs_neighbours": unknown,
                "cell_vs_neighbours.clipped": unknown,
            }
        neighbours = regions["neighbours"]
        beside = heat.mass(neighbours) / total
        ratio, clipped = log_density_ratio(
            *(share, heat.area(regions[self.region]), beside, heat.area(neighbours)),
            finest=heat.finest,
        )
        return {
            "cell": share,
            "neighbours": beside,
            "background": 1 - share - beside,
            "cell_vs_neighbours": ratio,
            "cell_vs_neighbours.clipped": clipped,
        }
