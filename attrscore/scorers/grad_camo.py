"""Grad-CAMO: the share of a network's attention that lies on the cell.

Gopalakrishnan, Ma, Xie: Grad-CAMO: Learning Interpretable Single-Cell Morphological Profiles from
3D Cell Painting Images, CVPR workshops 2024, pp. 6988-6996, arXiv 2403.17615. The authors
published no code; every step that the paper leaves open is an option, written into the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attrscore.errors import ConfigError, DataError, did_you_mean
from attrscore.heat import Heat, area_fraction, unresolvable
from attrscore.passes import Pass
from attrscore.registry import SCORERS

__all__ = ["GradCAMO", "mask_ratio", "roc_auc"]

LEVELS = 2**20
"""Steps between 0 and the hottest voxel that ``roc_auc`` tells apart."""


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


def roc_auc(heat: Tensor, mask: Tensor, /) -> Tensor:
    """Chance that a voxel on the mask is hotter than one off it, ties counted half.

    Non-negative (N, *S) and mask (N, *S), taken as true above 0.5 -> (N,) float64; 0.5 for a flat
    map whatever the area; NaN where either side is empty or a value is not finite. Voxels closer
    than a millionth of the hottest are ties, since resizing rounds. Equal to the Mann-Whitney
    statistic (Hanley, McNeil, Radiology 1982).

    >>> roc_auc(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([[True, False, False, False]]))
    tensor([1.], dtype=torch.float64)
    """
    hot = heat.flatten(1)
    on = (mask if mask.dtype == torch.bool else mask > 0.5).flatten(1)
    hottest = hot.amax(1, keepdim=True)
    defined = (hottest.isfinite() & hot.isfinite().all(1, keepdim=True))[:, 0].cpu().numpy()
    levels = (hot / torch.where(hottest > 0, hottest, 1) * LEVELS).round().nan_to_num(0, 0, 0)
    # Value and side fit one integer: numpy sorts those with SIMD, several times faster than any
    # sort that carries an index.
    keys = np.sort((levels.int() * 2 + on).cpu().numpy(), axis=1)
    positive = (keys & 1).astype(bool)
    level = keys >> 1
    below = np.cumsum(~positive, axis=1)  # off-mask voxels as hot or cooler
    starts = np.ones_like(positive)
    starts[:, 1:] = level[:, 1:] != level[:, :-1]
    before = np.where(starts, below - ~positive, 0)
    strictly = np.maximum.accumulate(before, axis=1)  # off-mask voxels that are cooler
    wins = ((below + strictly) * positive).sum(1, dtype=np.float64) / 2
    count_on = positive.sum(1, dtype=np.float64)
    pairs = count_on * (positive.shape[1] - count_on)
    auc = np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=defined & (pairs > 0))
    return torch.from_numpy(auc).to(heat.device)


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
    - ``log_odds``: ln[(S / f) / ((1 - S) / (1 - f))], S kept ``clip`` away from 0 and 1
    - ``lowest``, ``highest``: the attainable interval · ``resolved``: (S - f) / (highest - f)
    - ``cell``, ``neighbours``, ``background``: shares of heat; they sum to 1, and the last two are
      NaN where the batch has no region ``neighbours``
    - ``cell_vs_neighbours``: ln of the density of heat on the cell over that on the neighbours,
      shares kept ``clip`` away from 0; NaN where there is no neighbour
    - ``auc``: ROC-AUC of the resized map against the mask; 0.5 is chance for any f

    All are NaN where the row's status says so. Shares need no resized map, only ``auc`` does.
    """

    region: str = "cell"
    clip: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.clip < 0.5:
            raise ConfigError(f"clip={self.clip} must lie between 0 and 0.5.")

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
        chance = area_fraction(region)
        lowest, highest = heat.attainable(region)
        inside = share.clamp(self.clip, 1 - self.clip)
        columns = {
            "score": share,
            "chance": chance,
            "lift": share / chance,
            "above_chance": (share - chance) / (1 - chance),
            "log_odds": torch.logit(inside) - torch.logit(chance),
            "lowest": lowest,
            "highest": highest,
            "resolved": torch.where(
                unresolvable(highest, chance), torch.nan, (share - chance) / (highest - chance)
            ),
            **self._shares(heat, share, total, regions),
            "auc": roc_auc(heat.full(), region),
        }
        status = heat.status(region)
        undefined = torch.tensor(
            [s not in ("ok", "unresolvable") for s in status], device=share.device
        )
        return {name: values.masked_fill(undefined, torch.nan) for name, values in columns.items()}

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
            }
        neighbours = regions["neighbours"]
        beside = heat.mass(neighbours) / total
        area = area_fraction(neighbours)
        density = share.clamp(min=self.clip) / area_fraction(regions[self.region])
        density_beside = beside.clamp(min=self.clip) / area
        return {
            "cell": share,
            "neighbours": beside,
            "background": 1 - share - beside,
            "cell_vs_neighbours": torch.where(
                area > 0, density.log() - density_beside.log(), torch.nan
            ),
        }
