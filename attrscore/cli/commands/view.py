"""``attrscore view``: cells of a run in napari, with what the methods found."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrscore.cli.commands.behind import SettingsOf, dataset_behind
from attrscore.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["view"]

_AT_FIRST = 16


def view(arguments: Sequence[str], settings_of: SettingsOf) -> int:
    """Open napari on cells of a run: image, masks, and the heat of every method (keep=native).

    ``settings_of`` makes settings of the text of a configuration.
    """
    parser = argparse.ArgumentParser(
        prog="attrscore view",
        description=(view.__doc__ or "").partition("\n")[0],
        epilog="example: attrscore view results/ --cells field1:3,field1:7; of moved files: "
        "... dataset.images='moved/*.tif'",
    )
    folders = "a results folder, or the folder of a job (default: results)"
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help=folders)
    parser.add_argument(
        "--cells", help=f"ids, commas between (default: the first {_AT_FIRST} with maps)"
    )
    parser.add_argument("--method", help="of these methods only")
    parser.add_argument("--layer", help="of these layers only")
    parser.add_argument("--score", default="grad_camo", help="shown beside the id")
    parser.add_argument(
        "--screenshot", type=Path, metavar="PNG", help="write what would be shown, and end"
    )
    options = parser.parse_args(list(arguments))
    from attrscore.report.export.stitching import stacks_of
    from attrscore.report.export.viewing import layers_of, show
    from attrscore.store import kept, read_scores

    stacks = stacks_of(
        kept(options.results), methods=_names(options.method), layers=_names(options.layer)
    )
    dataset = dataset_behind([each for stack in stacks for each in stack.sources], settings_of)
    ids = [str(each) for each in dataset.table["id"]]
    there = set().union(*(stack.ids for stack in stacks))
    wanted = _names(options.cells) or [each for each in ids if each in there][:_AT_FIRST]
    for each in wanted:
        if each not in there:
            raise ConfigError(
                f"No map is kept of a cell {each!r}. {did_you_mean(each, sorted(there)[:1000])}"
            )
    rows = {each: row for row, each in enumerate(ids)}
    batch = dataset.read([rows[each] for each in wanted])
    heats = {stack.name: stack.heat(wanted, dataset.spec.size) for stack in stacks}
    scores = read_scores(options.results, columns=[options.score])
    captions = [_caption(each, scores[scores["id"] == each], options.score) for each in wanted]
    show(layers_of(batch, heats), captions, screenshot=options.screenshot)
    return 0


def _caption(cell: str, scores: pd.DataFrame, score: str) -> str:
    values = scores[score].map("{:.2f}".format).replace("nan", "undefined")
    places = scores["method"] + " " + scores["layer"]
    said = [f"{place}: {value}" for place, value in zip(places, values, strict=True)]
    return "\n".join([cell, f"{score}:", *said])


def _names(text: str | None) -> list[str]:
    return [name for name in (text or "").split(",") if name]
