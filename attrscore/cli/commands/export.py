"""``attrscore export``: scores into tables that other tools read, maps over the images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from attrscore.cli.commands.behind import SettingsOf, dataset_behind
from attrscore.errors import ConfigError, preview
from attrscore.report.export.destination import check_free
from attrscore.report.export.images import ImageFormat, paths_of, write_images

__all__ = ["export"]

_SUFFIXES = {
    "csv": ".csv",
    "parquet": ".parquet",
    "anndata": ".h5ad",
    "pycytominer": ".csv.gz",
}
_OF_TABLES, _OF_IMAGES = ("profiles", "on", "scores"), ("method", "layer", "overlap", "scale")

OK, INCOMPLETE = 0, 3


def export(arguments: Sequence[str], settings_of: SettingsOf) -> int:
    """Write scores as a table with a row a cell, or kept maps as images over their fields.

    ``settings_of`` makes settings of the text of a configuration.
    """
    parser = argparse.ArgumentParser(
        prog="attrscore export",
        description=(export.__doc__ or "").partition("\n")[0],
        epilog="example: attrscore export results/ --to csv --profiles profiles.parquet "
        "--on Metadata_Plate,Metadata_Well,Metadata_object=Metadata_ObjectNumber. Images of files "
        "that have moved: ... --to tiff dataset.images='moved/*.tif'",
    )
    folders = "a results folder, the folder of a job, a table (default: results)"
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help=folders)
    parser.add_argument("--to", required=True, choices=(*_SUFFIXES, *get_args(ImageFormat)))
    parser.add_argument(
        "-o", "--output", type=Path, help="a file; of images a folder (default: RESULTS/export/)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    tables = parser.add_argument_group("tables (csv, parquet, anndata, pycytominer)")
    tables.add_argument("--profiles", type=Path, help="join onto this table: CSV or Parquet")
    tables.add_argument("--on", help="columns that name a cell in both: OURS,OURS=THEIRS,...")
    tables.add_argument("--scores", help="of these columns only: grad_camo,grad_camo.lift")
    images = parser.add_argument_group("images (tiff, omezarr, nifti), of runs with keep=native")
    images.add_argument("--method", help="of these methods only")
    images.add_argument("--layer", help="of these layers only")
    images.add_argument(
        "--overlap",
        choices=("own", "max", "mean", "cells"),
        help="where crops overlap: own (in a cell its own map, else the highest; default), the "
        "highest, the mean, or cells (its own map in a cell, 0 elsewhere)",
    )
    images.add_argument(
        "--scale", choices=("none", "each"), help="each: divide every map by its maximum"
    )
    options = parser.parse_args(list(arguments))
    table = options.to in _SUFFIXES
    other = [name for name in (_OF_IMAGES if table else _OF_TABLES) if getattr(options, name)]
    if other:
        raise ConfigError(
            f"--{other[0]} belongs to {'images' if table else 'tables'}, not to --to {options.to}."
        )
    return _table(options) if table else _images(options, settings_of)


def _table(options: argparse.Namespace) -> int:
    from attrscore.cli.output import stderr, stdout
    from attrscore.report.export.annotated import to_anndata, write_anndata
    from attrscore.report.export.origin import origin
    from attrscore.report.export.profiles import join, keys_of, read_profiles
    from attrscore.report.export.tables import for_pycytominer, write_table
    from attrscore.report.export.wide import widened
    from attrscore.store import table_and_kinds

    if options.to == "pycytominer" and options.profiles is None:
        raise ConfigError("--to pycytominer needs --profiles, the table that scores are added to.")
    if options.on and options.profiles is None:
        raise ConfigError("--on needs --profiles, the table that scores are joined onto.")
    path = options.output or _beside(options.results) / f"scores{_SUFFIXES[options.to]}"
    check_free([path], force=options.force)
    wide = widened(*table_and_kinds(options.results), scores=_names(options.scores) or None)
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
    told = origin(options.results)
    if options.to == "anndata":
        write_anndata(to_anndata(table, wide, provenance=told), path)
    else:
        write_table(
            for_pycytominer(table) if options.to == "pycytominer" else table, path, provenance=told
        )
    stdout().print(
        f"table: {path} ({len(table)} rows, {len(wide.own)} columns of attrscore)", soft_wrap=True
    )
    return INCOMPLETE if left_out else OK


def _images(options: argparse.Namespace, settings_of: SettingsOf) -> int:
    from attrscore.cli.output import stderr, stdout
    from attrscore.report.export.stitching import laid_back, stacks_of
    from attrscore.store import kept

    folder = options.output or _beside(options.results) / options.to
    stacks = stacks_of(
        kept(options.results), methods=_names(options.method), layers=_names(options.layer)
    )
    names = [stack.name for stack in stacks]
    dataset = dataset_behind([each for stack in stacks for each in stack.sources], settings_of)
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


def _names(text: str | None) -> list[str]:
    return [name for name in (text or "").split(",") if name]
