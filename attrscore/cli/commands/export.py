"""``attrscore export``, ``attrscore view``: results in tables, images, trackers and napari."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from attrscore.cli.commands import parser_of
from attrscore.cli.hydra_app import changes_among, kept_settings
from attrscore.cli.outcomes import INCOMPLETE, OK
from attrscore.errors import ConfigError, DataError, did_you_mean, preview
from attrscore.report.export import ImageFormat, Tracker, check_free
from attrscore.store.identity import canonical

if TYPE_CHECKING:
    import pandas as pd

    from attrscore.core.contracts import Dataset
    from attrscore.store import Kept

_SUFFIXES = {
    "csv": ".csv",
    "parquet": ".parquet",
    "anndata": ".h5ad",
    "pycytominer": ".csv.gz",
}
_OPTIONS = {
    "tables": ("profiles", "on", "scores", "excel", "twins"),
    "images": ("overlap", "scale"),
    "trackers": ("twins",),
}
"""What each kind of export alone takes."""

_AT_FIRST = 16


def export(arguments: Sequence[str]) -> int:
    """Scores as a table with a row a cell or into a tracker's store, or kept maps as images."""
    parser = parser_of(
        "export",
        export.__doc__,
        "example: attrscore export results/ --to csv --profiles profiles.parquet "
        "--on Metadata_Plate,Metadata_Well,Metadata_object=Metadata_ObjectNumber. Images of files "
        "that have moved: ... --to tiff dataset.images='moved/*.tif'",
    )
    folders = "a results folder, the folder of a job, a table (default: results)"
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help=folders)
    choices = (*_SUFFIXES, *get_args(ImageFormat), *get_args(Tracker))
    parser.add_argument("--to", required=True, choices=choices)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="a file; of images and trackers a folder (default: RESULTS/export/)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    parser.add_argument("--method", help="of these methods only: grad_cam,hires_cam")
    parser.add_argument("--layer", help="of these layers only")
    parser.add_argument_group(
        "trackers (mlflow, wandb)",
        "a run a job, of a leaderboard its table: settings, mean scores, figures, provenance, in a "
        "local store; nothing is sent. They need: pip install 'attrscore[mlflow]' or '[wandb]'.",
    )
    tables = parser.add_argument_group("tables (csv, parquet, anndata, pycytominer)")
    tables.add_argument("--profiles", type=Path, help="join onto this table: CSV or Parquet")
    tables.add_argument("--on", help="columns that name a cell in both: OURS,OURS=THEIRS,...")
    tables.add_argument(
        "--excel", action="store_true", help="CSV in which no text is a formula: '=1+1 for =1+1"
    )
    tables.add_argument("--scores", help="of these columns only: grad_camo,grad_camo.lift")
    twins = "also of random weights (model.randomize), which are left out else"
    tables.add_argument("--twins", action="store_true", help=twins)
    images = parser.add_argument_group("images (tiff, omezarr, nifti), of runs with keep=native")
    images.add_argument(
        "--overlap",
        choices=("own", "max", "mean", "cells"),
        help="where crops overlap: own (in a cell its own map, else the highest; default), the "
        "highest, the mean, or cells (its own map in a cell, 0 elsewhere)",
    )
    images.add_argument(
        "--scale", choices=("none", "each"), help="each: divide every map by its maximum"
    )
    arguments, changes = changes_among(arguments)
    options = parser.parse_args(arguments)
    kind = "tables" if options.to in _SUFFIXES else "images"
    kind = "trackers" if options.to in get_args(Tracker) else kind
    for other, names in _OPTIONS.items():
        wrong = [name for name in names if getattr(options, name) and name not in _OPTIONS[kind]]
        if wrong:
            raise ConfigError(f"--{wrong[0]} belongs to {other}, not to --to {options.to}.")
    if kind == "trackers":
        return _logged(options)
    return _table(options) if kind == "tables" else _images(options, changes)


def _logged(options: argparse.Namespace) -> int:
    from attrscore.cli.output import stdout
    from attrscore.report.export.trackers import log

    folder = options.output or _beside(options.results) / options.to
    runs = log(
        options.results,
        folder,
        to=options.to,
        methods=_names(options.method),
        layers=_names(options.layer),
        twins=options.twins,
        force=options.force,
    )
    shown = {
        "mlflow": f"mlflow ui --backend-store-uri sqlite:///{(folder / 'mlflow.db').resolve()}",
        "wandb": f"wandb sync {folder}/wandb/offline-run-*",
    }
    stdout().print(f"runs: {folder} ({len(runs)}: {preview(runs)})", soft_wrap=True)
    stdout().print(f"show: {shown[options.to]}", soft_wrap=True)
    return OK


def _table(options: argparse.Namespace) -> int:
    from attrscore.cli.output import stderr, stdout
    from attrscore.report.export.tables import (
        chosen,
        for_pycytominer,
        join,
        keys_of,
        read_profiles,
        said_of,
        to_anndata,
        widened,
        write_anndata,
        write_table,
    )
    from attrscore.report.provenance import classes_of, jobs_of, origin
    from attrscore.store import table_and_kinds

    if options.to == "pycytominer" and options.profiles is None:
        raise ConfigError("--to pycytominer needs --profiles, the table that scores are added to.")
    if options.on and options.profiles is None:
        raise ConfigError("--on needs --profiles, the table that scores are joined onto.")
    path = options.output or _beside(options.results) / f"scores{_SUFFIXES[options.to]}"
    check_free([path], force=options.force)
    scores, kinds = table_and_kinds(options.results)
    rows = chosen(
        scores,
        methods=_names(options.method),
        layers=_names(options.layer),
        twins=options.twins,
    )
    wide = widened(rows, kinds, scores=_names(options.scores) or None)
    table, left_out = wide.table, 0
    if options.profiles is not None:
        profiles = read_profiles(options.profiles, on=options.on)
        joined = join(wide, profiles, keys_of(options.on, wide, profiles))
        table, left_out = joined.table, joined.without_profile
        stderr().print(
            f"{joined.matched} rows of {options.profiles} have scores; {joined.without_score} have "
            f"none, and {joined.without_profile} cells with scores are not in it and left out.",
            soft_wrap=True,
        )
    columns = said_of(wide)
    provenance = {**origin(options.results), "columns": columns.to_dict("list")}
    if options.to == "anndata":
        said = {**provenance, "verdicts": _verdicts(scores)}
        names = list(classes_of(jobs_of([options.results])).values())
        classes = names[0] if len(names) == 1 else ()
        write_anndata(to_anndata(table, wide, provenance=said, classes=classes), path)
    else:
        write_table(
            for_pycytominer(table) if options.to == "pycytominer" else table,
            path,
            provenance=provenance,
            excel=options.excel,
        )
    cut = columns[columns["name"] != columns["whole"]]
    if len(cut) and options.to in ("csv", "pycytominer"):
        beside = path.with_name(f"{path.name.partition('.')[0]}.columns.csv")
        write_table(columns, beside, provenance={})
        stderr().print(
            f"{len(cut)} names are longer than 59 characters and were cut: {beside} says what each "
            "column holds.",
            soft_wrap=True,
        )
    stdout().print(
        f"table: {path} ({len(table)} rows, {len(wide.own)} columns of attrscore)", soft_wrap=True
    )
    return INCOMPLETE if left_out else OK


def _verdicts(scores: pd.DataFrame) -> dict[str, list[str]]:
    """The verdict of each model by its primary condition, as columns."""
    from attrscore import stats
    from attrscore.cli.output import headline

    found = [each for each in stats.verdicts(scores, score=headline(scores)) if each.primary]
    return {
        "model": [str(each.about["model"]) for each in found],
        "kind": [each.kind for each in found],
        "sentence": [each.sentence for each in found],
    }


def _images(options: argparse.Namespace, changes: Sequence[str]) -> int:
    from attrscore.cli.output import stderr, stdout
    from attrscore.report.export.fields import laid_back, paths_of, stacks_of, write_images
    from attrscore.store import kept

    folder = options.output or _beside(options.results) / options.to
    stacks = stacks_of(
        kept(options.results), methods=_names(options.method), layers=_names(options.layer)
    )
    names = [stack.name for stack in stacks]
    dataset = _dataset_behind([each for stack in stacks for each in stack.sources], changes)
    fields = dict.fromkeys(dataset.table.get("Metadata_image", ()))
    paths = {field: paths_of(folder, str(field), names, options.to) for field in fields}
    check_free([path for each in paths.values() for path in each], force=options.force)
    cells = undefined = written = 0
    for each in laid_back(
        stacks, dataset, overlap=options.overlap or "own", scale=options.scale or "none"
    ):
        write_images(paths[each.name], each.heat, names, options.to, spacing=each.spacing)
        cells, undefined, written = cells + each.cells, undefined + each.undefined, written + 1
    stdout().print(
        f"images: {folder} (heat of {cells} cells over {written} fields: {preview(names)})",
        soft_wrap=True,
    )
    absent = len(set().union(*(stack.ids for stack in stacks))) - cells
    if undefined or absent:
        stderr().print(
            f"left out: {undefined} maps that are missing or not finite, {absent} cells that the "
            "dataset does not have now.",
            soft_wrap=True,
        )
    return INCOMPLETE if undefined or absent else OK


def _beside(results: Path) -> Path:
    return (results if results.is_dir() else results.parent) / "export"


def view(arguments: Sequence[str]) -> int:
    """Open napari on cells of a run: image, masks, and the heat of every method (keep=native)."""
    parser = parser_of(
        "view",
        view.__doc__,
        "example: attrscore view results/ --cells field1:3,field1:7; of moved files: "
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
    arguments, changes = changes_among(arguments)
    options = parser.parse_args(arguments)
    from attrscore.report.export.fields import stacks_of
    from attrscore.report.export.viewing import layers_of, show
    from attrscore.store import kept, read_scores

    stacks = stacks_of(
        kept(options.results), methods=_names(options.method), layers=_names(options.layer)
    )
    dataset = _dataset_behind([each for stack in stacks for each in stack.sources], changes)
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
    return OK


def _caption(cell: str, scores: pd.DataFrame, score: str) -> str:
    values = scores[score].map("{:.2f}".format).replace("nan", "undefined")
    conditions = scores["method"] + " " + scores["layer"]
    said = [f"{name}: {value}" for name, value in zip(conditions, values, strict=True)]
    return "\n".join([cell, f"{score}:", *said])


def _dataset_behind(kept: Sequence[Kept], changes: Sequence[str], /) -> Dataset:
    """The whole dataset, all its shards, that these maps were computed on. Loads torch.

    Relative paths in the configuration start from the working folder.

    :raises ConfigError: maps of several datasets.
    :raises DataError: the files are gone, or not those of then.
    """
    from attrscore.jobs.assembly import dataset_of

    nodes: dict[str, dict[str, Any]] = {}
    digests: set[str] = set()
    for each in kept:
        settings = kept_settings(each.folder.config, changes, builds=["dataset"])
        node = {**settings["dataset"], "shard": None}
        nodes.setdefault(canonical(node), node)
        identity = each.folder.job.base["dataset"]
        if "shard" not in identity:
            digests.add(str(identity["fingerprint"]))
    if len(nodes) > 1 or len(digests) > 1:
        folders = sorted({str(each.folder.path) for each in kept})
        raise ConfigError(
            f"These maps are of several datasets; give the folder of one job: {preview(folders)}."
        )
    dataset = dataset_of({"dataset": next(iter(nodes.values()))})
    if digests and digests != {dataset.fingerprint()}:
        raise DataError(
            "The images or masks are not those that these maps were computed on, so the maps "
            "cannot be laid over them; put the files back, or compute the maps again."
        )
    return dataset


def _names(text: str | None) -> list[str]:
    return [name for name in (text or "").split(",") if name]
