"""Scorers: heat and pass in, numbers out."""

from attrscore.scorers.grad_camo import GradCAMO, mask_ratio, roc_auc

__all__ = ["GradCAMO", "mask_ratio", "roc_auc"]
