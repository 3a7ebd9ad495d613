"""Statistics of results: pandas in, pandas out; no torch.

Wells and plates are the units of replication, so intervals resample them and not cells. Models,
methods and layers are compared on the same cells. Cells without a score are counted. What is
undefined is NaN with a sentence beside it.
"""

from __future__ import annotations

from attrscore.stats.agreement import agreement, map_agreement, map_matrix
from attrscore.stats.comparisons import (
    adjust,
    adjusted,
    auroc,
    compare,
    paired,
    repairs,
    separation,
    sign_flip,
)
from attrscore.stats.reporting import Report, report
from attrscore.stats.resampling import CLUSTERS, Clusters, Estimate, Resampling, bootstrap
from attrscore.stats.summary import (
    accuracy,
    confusion,
    rank_among,
    resolvable,
    subsets,
    summarise,
    threshold_curve,
    undefined,
)
from attrscore.stats.verdict import Evidence, Rule, Verdict, verdict, verdicts

__all__ = [
    "CLUSTERS",
    "Clusters",
    "Estimate",
    "Evidence",
    "Report",
    "Resampling",
    "Rule",
    "Verdict",
    "accuracy",
    "adjust",
    "adjusted",
    "agreement",
    "auroc",
    "bootstrap",
    "compare",
    "confusion",
    "map_agreement",
    "map_matrix",
    "paired",
    "rank_among",
    "repairs",
    "report",
    "resolvable",
    "separation",
    "sign_flip",
    "subsets",
    "summarise",
    "threshold_curve",
    "undefined",
    "verdict",
    "verdicts",
]
