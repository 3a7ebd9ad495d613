"""Small jobs with made-up scores, for the tests of the store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from attrscore.store import Condition, Job, Plugin, Writer

GRAD_CAM, IG = Plugin("grad_cam"), Plugin("integrated_gradients", options={"steps": 32})
GRAD_CAMO, OTHER = Plugin("grad_camo"), Plugin("other")
LABELS = {"model": "tiny", "dataset": "phantom"}
BASE = {
    "model": {"name": "tiny_cnn", "options": {"width": 8}, "weights": "abc"},
    "dataset": {"name": "phantom", "fingerprint": "f0"},
    "heat": {"sign": "positive"},
    "seed": 0,
    "keep": "none",
}


def job(*conditions, base=BASE, rows=5, part_rows=2):
    return Job(base, conditions or (Condition(GRAD_CAM, "features.3", GRAD_CAMO),), rows, part_rows)


def table(of, start=0, stop=5, *, offset=0.0, **columns):
    """Rows of all methods and layers of a job, with a score column a scorer."""
    frames = []
    for method, layer in dict.fromkeys((c.method.key, c.layer) for c in of.conditions):
        n = stop - start
        scorers = [c.scorer.key for c in of.conditions if c.triple[:2] == (method, layer)]
        frame = pd.DataFrame({"id": [f"cell{i}" for i in range(start, stop)]})
        frame = frame.assign(method=method, layer=layer, target="predicted", status="ok", reason="")
        frame = frame.assign(label=np.arange(start, stop) % 2, predicted=1, explained=0.5)
        for scorer in scorers:
            frame[scorer] = np.arange(start, stop) / 10 + offset
            frame[f"{scorer}.chance"] = 0.25
        frames.append(frame.assign(Metadata_Plate=["Ä1"] * n, **columns))
    return pd.concat(frames, ignore_index=True)


def fill(folder, of, *, labels=LABELS, config="", **options):
    writer = Writer(folder, of, labels=labels, config=config)
    for start, stop in writer.missing():
        writer.write(start, stop, table(of, start, stop, **options))
    return writer


def sweep(folder):
    """Several jobs: another layer, a scorer added later in parts of other sizes, an option."""
    fill(folder, job(*(Condition(GRAD_CAM, f"f.{i}", GRAD_CAMO) for i in (10, 9))))
    fill(folder, job(Condition(GRAD_CAM, "f.9", OTHER), part_rows=3), Metadata_more=7)
    for steps in (8, 32):
        method = replace(IG, options={"steps": steps})
        fill(folder, job(Condition(method, "input", GRAD_CAMO)), completeness_error=0.5)
    fill(folder, job(base={**BASE, "heat": {"sign": "absolute"}}), Metadata_gap=None)
