"""``attrscore report``: what results say, and how sure that is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd

from attrscore.errors import StoreError

__all__ = ["report"]


def report(arguments: Sequence[str]) -> int:
    """Tell what results say, and how sure that is: intervals over wells, comparisons, verdicts."""
    parser = argparse.ArgumentParser(
        prog="attrscore report",
        description=report.__doc__,
        epilog="example: attrscore report results/ --by Metadata_Treatment --figures figures/",
    )
    parser.add_argument("results", nargs="+", help="results folders, or .h5 and .parquet tables")
    parser.add_argument("--score", default="grad_camo", help="column (default: grad_camo)")
    parser.add_argument("--threshold", type=float, default=0.5, help="of P(S > t) (default: 0.5)")
    parser.add_argument(
        "--clusters", type=_names, help="units, the outermost first: Metadata_Plate,Metadata_Well"
    )
    parser.add_argument("--by", type=_names, default=[], help="groups: Metadata_Treatment")
    parser.add_argument("--null", help="the model of randomised weights, if it has its own name")
    parser.add_argument("--cells", type=int, default=30, help="fewest for a verdict (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    parser.add_argument("--json", action="store_true", help="everything, for other programs")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw into this folder")
    options = parser.parse_args(list(arguments))
    from attrscore import printout, stats, store, terminal

    table = store.read_scores(*options.results)
    found = stats.report(
        table,
        score=options.score,
        threshold=options.threshold,
        clusters=options.clusters,
        by=options.by,
        null=options.null,
        least_cells=options.cells,
        seed=options.seed,
    )
    found = replace(found, maps=_map_agreement(options.results, found.summary))
    out = terminal.stdout()
    if options.json:
        out.file.write(json.dumps(found.as_dict(), ensure_ascii=False, indent=1) + "\n")
    else:
        for part in printout.parts(found):
            out.print(part, soft_wrap=isinstance(part, str))
    if options.figures:
        from attrscore import plots

        drawn = plots.evidence(table, found)
        for name, sheet in drawn.items():
            path = plots.save(sheet, options.figures / f"{name}.png")
            terminal.stderr().print(f"figure: {path}", soft_wrap=True)
    return 0


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _map_agreement(results: Sequence[str], summary: pd.DataFrame) -> pd.DataFrame:
    """How alike the kept maps of results folders are, for each model and layer."""
    from attrscore import stats, store

    frames = []
    places = summary[["model", "layer"]].drop_duplicates().astype(str)
    for folder, (model, layer) in product(results, places.to_numpy()):
        maps = {}
        for method in map(str, summary["method"].unique()):
            # Not every method keeps maps, and one name may stand for several settings.
            with suppress(StoreError):
                maps[method] = store.read_maps(folder, method, layer, model=model)
        if len(maps) > 1:
            frames.append(stats.map_agreement(maps).assign(model=model, layer=layer))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
