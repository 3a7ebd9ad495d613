"""Results gathered into one table: a row a (id, model, method, layer, target)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Literal, cast

import pandas as pd
from rich.console import Console
from rich.progress import track
from torch import nn

from attrscore.core.columns import KEY_COLUMNS
from attrscore.core.contracts import Batch, Dataset, Result
from attrscore.core.model import unwrap
from attrscore.core.readings import attach, readings_of
from attrscore.core.registry import METHODS, SCORERS
from attrscore.core.statuses import reason_table
from attrscore.datasets.batches import Data, Items, batches_from, how_many
from attrscore.engine.reading import draw_pool, needs_pool
from attrscore.engine.run import batches_of, run
from attrscore.errors import AttrscoreWarning, ConfigError, DataError, choose, stoppable

__all__ = ["evaluate", "rows_of", "to_frame"]


@stoppable()
def evaluate(
    model: nn.Module | Mapping[str, nn.Module],
    data: Data | Dataset,
    *,
    items: Items = None,
    batch_size: int = 32,
    dataset: str = "",
    progress: Literal["bar", "none"] = "bar",
    pool: Batch | int = 64,
    **options: Any,
) -> pd.DataFrame:
    """Attribute and score, gathered into one table: a row a (id, model, method, layer, target).

    ``model`` is a torch module, or a mapping from names to several to be compared. ``data`` is a
    dataset of attrscore or of torch, which is read ``batch_size`` cells at a time, or a batch, or
    an iterable of batches such as a DataLoader. A batch may also be a tuple (inputs, masks of the
    cells, labels) or a dictionary with the keys inputs, cell, label, ids; ``items`` says which
    item is what where it is otherwise (:func:`attrscore.datasets.batches.batches_from`). ``pool``
    holds the other cells that some scorers need: a batch, or how many are drawn of a dataset (seed
    0). The other options are those of :func:`attrscore.engine.run`. The columns are the keys, then
    the scores, then what the batches carry; ``status`` says which rows count. How scores are to be
    read is attached to the table (:func:`attrscore.core.readings.reading_of`).

    :raises AttrscoreError: as :func:`attrscore.engine.run`.
    """
    choose(progress, ("bar", "none"), option="progress")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size={batch_size!r} must be a whole number from 1; 32 is usual.")
    if not isinstance(pool, Batch | int):
        raise ConfigError(
            f"pool={pool!r} must be a Batch, or how many cells are drawn; 64 is usual."
        )
    models = model if isinstance(model, Mapping) else {type(unwrap(model)).__name__: model}
    if not models:
        raise ConfigError(
            "There is no model to evaluate; give one, or a mapping from names to some."
        )
    is_ours = hasattr(data, "read") and hasattr(data, "table")
    ours = cast("Dataset", data) if is_ours else None
    source: Iterable[Batch] = ()
    if ours is not None:
        total: int | None = -(-len(ours.table) // batch_size)
    else:
        other = cast("Data", data)
        total = how_many(other, batch_size=batch_size)
        given = batches_from(other, items=items, batch_size=batch_size)
        source = given if len(models) == 1 else list(given)
    for registry, kind in ((METHODS, "methods"), (SCORERS, "scorers")):
        if kind in options:  # resolved here to ask them; the engine takes them as they are
            options[kind] = registry.resolve(options[kind])
    others = pool if isinstance(pool, Batch) else None
    plugins = [*options.get("methods", {}).values(), *options.get("scorers", {}).values()]
    if ours is not None and isinstance(pool, int) and any(map(needs_pool, plugins)):
        others = draw_pool(ours, pool)
    console = Console(stderr=True)
    shows = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    hide = progress == "none" or not shows
    frames = []
    for name, one in models.items():
        each = source if ours is None else batches_of(ours, batch_size=batch_size)
        shown = track(each, name, total, console=console, disable=hide, transient=True)
        frames.append(
            to_frame(run(one, shown, pool=others, **options), model=name, dataset=dataset)
        )
    table = pd.concat(frames, ignore_index=True)
    _warn_of_gaps(table)
    scorers = SCORERS.resolve(options.get("scorers", "grad_camo"))
    return attach(table, {key: readings_of(each) for key, each in scorers.items()})


def rows_of(results: Iterable[Result], /) -> pd.DataFrame:
    """Results as one table: keys without model and dataset, then the scores, then the rest."""
    frames = [
        pd.DataFrame(dict(result.columns)).assign(
            method=result.method, layer=result.layer, target=result.target
        )
        for result in results
    ]
    if not frames:
        raise DataError("There is no batch to evaluate; the data are empty.")
    table = pd.concat(frames, ignore_index=True)
    keys = [name for name in KEY_COLUMNS if name in table]
    carried = [column for column in table if str(column).startswith("Metadata_")]
    scores = [column for column in table if column not in {*keys, *carried}]
    return table[[*keys, *scores, *carried]]


def to_frame(results: Iterable[Result], /, *, model: str, dataset: str) -> pd.DataFrame:
    """Results as one table in the order of :data:`KEY_COLUMNS`, scores, the rest."""
    table = rows_of(results)
    table.insert(1, "model", model)
    table.insert(2, "dataset", dataset)
    return table


def _warn_of_gaps(table: pd.DataFrame) -> None:
    found = reason_table(table)
    for row in found[found["kind"].isin(["failure", "unsupported"])].itertuples():
        warnings.warn(
            f"{row.rows} rows of {row.method} are {row.status}: {row.text}",
            AttrscoreWarning,
            stacklevel=3,
        )
