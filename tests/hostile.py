"""Results as an enemy would write them: markup in every name, one cell, nothing defined."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attrscore.store import Condition, Job, Plugin, Writer, stored_crops

MARKUP = "<script>window.hurt = 1</script>"
IMAGE = '"><img src=x onerror="window.hurt = 2">'


def hostile(folder):
    """A results folder of two networks and one cell without any score."""
    for number, network in enumerate((f"net{IMAGE}", f"net{MARKUP}")):
        base = {
            "model": {"name": network, "options": {}, "fingerprint": f"f{number}"},
            "dataset": {"name": "phantom", "fingerprint": "d0"},
            "heat": {"sign": "positive", "channels": "sum", "resize": "linear"},
            "keep": "native",
        }
        method = Plugin(f"cam{MARKUP}", options={"</dd>": MARKUP})
        job = Job(base, [Condition(method, f"layer{IMAGE}", Plugin("grad_camo"))], 1, 1)
        rows = pd.DataFrame(
            {
                "id": [f"cell'{MARKUP}{IMAGE}</style></article>"],
                "method": method.key,
                "layer": f"layer{IMAGE}",
                "target": "predicted</table>",
                "status": "no_positive_mass",
                "reason": f"nothing is positive {MARKUP}",
                "label": 0,
                "predicted": 1,
                "grad_camo": np.nan,
                "grad_camo.chance": 0.2,
                "Metadata_Well": f"A01{MARKUP}",
                "Metadata_Plate": IMAGE,
            }
        )
        crops = stored_crops(
            list(rows["id"]),
            np.random.default_rng(0).random((1, 2, 16, 16), dtype=np.float32),
            {"cell": np.zeros((1, 16, 16), bool)},
            stains=(MARKUP, IMAGE),
            classes=(MARKUP, IMAGE),
        )
        writer = Writer(
            folder,
            job,
            labels={"model": network, "dataset": f"data{MARKUP}"},
            config=f"a: {MARKUP}",
            provenance={"overrides": [f"label.model={MARKUP}"], "python": MARKUP},
        )
        maps = {(method.key, f"layer{IMAGE}"): np.zeros((1, 2, 4, 4), np.float32)}
        writer.write(0, 1, rows, maps, crops=crops)
    return folder
