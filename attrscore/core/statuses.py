"""What the column ``reason`` of a results table says, sentence by sentence. Needs no torch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from attrscore.core.contracts import (
    BETWEEN_REASONS,
    SCORER_FAILED,
    SCORER_UNSUPPORTED,
    SMALLER_BATCHES,
)

__all__ = ["Kind", "reasons_told"]

Kind = Literal["failure", "unsupported", "gap", "note"]


def reasons_told(scores: pd.DataFrame, /) -> pd.DataFrame:
    """A row a sentence and method, the most frequent first: kind, method, status, sentence, rows.

    The kind is ``failure`` of what should have worked; ``unsupported``, a scorer that gives nothing
    for such maps; ``gap``, a single value that is undefined; or ``note``, nothing amiss.

    >>> told = "auc cannot work here: no mask. | iou: a flat map has no Otsu threshold."
    >>> table = pd.DataFrame({"method": ["ig"], "status": ["ok"], "reason": [told]})
    >>> reasons_told(table)["kind"].tolist()
    ['unsupported', 'gap']
    """
    rows = scores.loc[scores["reason"].fillna("") != "", ["method", "status", "reason"]]
    parts = rows["reason"].astype(object).str.split(BETWEEN_REASONS, regex=False)
    rows = rows.assign(sentence=parts).explode("sentence")
    failed = (rows["status"] != "ok") | rows["sentence"].str.startswith(SCORER_FAILED)
    whole = rows["sentence"].str.contains(SCORER_UNSUPPORTED, regex=False)
    noted = rows["sentence"] == SMALLER_BATCHES
    kinds: list[Kind] = ["failure", "unsupported", "note"]
    rows["kind"] = np.select([failed, whole, noted], kinds, "gap")
    keys = ["kind", "method", "status", "sentence"]
    counts = rows.groupby(keys, sort=False, observed=True).size().rename("rows")
    return counts.reset_index().sort_values("rows", ascending=False, kind="stable")
