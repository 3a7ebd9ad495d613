"""The contract of a dataset. It is asked as it is, in the dimensions that it has."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from attrscore.core.columns import KEY_COLUMNS
from attrscore.core.contracts import Batch, InputSpec
from attrscore.engine.run import run
from attrscore.testing.contract import (
    Check,
    Subject,
    nearly,
    pickles,
    random_states_kept,
    require,
)

MOST = 6
"""Cells that are read."""


def _rows(data: Any) -> list[int]:
    """Of cells spread over the table."""
    return sorted({round(x) for x in np.linspace(0, len(data.table) - 1, MOST)})


def a_table_of_cells(subject: Subject) -> None:
    """``table``, ``classes``, ``spec``, ``skipped`` and ``left_out``, as the contract has them."""
    data = subject.plugin
    for name in ("table", "classes", "spec", "skipped", "left_out", "read", "fingerprint"):
        require(hasattr(data, name), f"it has no {name}; see attrscore.core.contracts.Dataset.")
    table = data.table
    require(
        isinstance(table, pd.DataFrame) and {"id", "label"} <= set(table.columns),
        "table must be a pandas table with the columns id and label.",
    )
    require(len(table) > 0, "table has no row, so nothing can be asked; give it cells.")
    require(table["id"].is_unique, "ids must be unique; one stands twice.")
    require(all(isinstance(each, str) and each for each in table["id"]), "every id must be a text.")
    labels = table["label"]
    require(
        pd.api.types.is_integer_dtype(labels) and labels.between(-1, len(data.classes) - 1).all(),
        f"label must be whole numbers from -1 (unknown) to {len(data.classes) - 1}, the last of "
        "classes.",
    )
    taken = [name for name in table if name in KEY_COLUMNS and name not in ("id", "label")]
    require(not taken, f"the columns {taken} are those of results; call them Metadata_{taken[:1]}.")
    spec = data.spec
    require(
        isinstance(spec, InputSpec) and spec.dimensions in (2, 3),
        "spec must be an attrscore.core.contracts.InputSpec of 2 or 3 axes.",
    )
    require(spec.classes == len(data.classes), "spec.classes must be the number of classes.")
    require(
        isinstance(data.skipped, Mapping)
        and all(isinstance(each, str) for each in [*data.skipped, *data.skipped.values()]),
        "skipped must be a mapping from what was skipped to why, in one sentence.",
    )
    require(isinstance(data.left_out, int), "left_out must be a whole number.")


def crops_as_stated(subject: Subject) -> None:
    """``read`` gives the cells asked for, in that order, on the CPU, as spec and table say."""
    data, rows = subject.plugin, _rows(subject.plugin)[::-1]
    made = data.read(rows)
    require(
        isinstance(made, Batch), f"read gave a {type(made).__name__}; expected attrscore.Batch."
    )
    expected = [str(each) for each in data.table["id"].iloc[rows]]
    require(
        list(made.ids) == expected,
        f"read({rows}) gave the cells {list(made.ids)}; expected {expected}, in that order.",
    )
    shape = (len(rows), data.spec.channels, *data.spec.size)
    require(
        tuple(made.inputs.shape) == shape,
        f"the crops have the shape {tuple(made.inputs.shape)}; spec says {shape}.",
    )
    require(made.inputs.device.type == "cpu", "read must give crops on the CPU.")
    require(
        made.label.tolist() == data.table["label"].iloc[rows].tolist(),
        "the labels that read gives are not those of the table.",
    )
    for name, values in made.meta.items():
        require(
            name in data.table and list(values) == data.table[name].iloc[rows].tolist(),
            f"the column '{name}' that read carries is not that of the table.",
        )
    require(made.regions["cell"].flatten(1).any(1).any(), "no cell has a pixel.")


def the_same_again(subject: Subject) -> None:
    """A cell has the same pixels alone, among others, and once more; random states stay."""
    data, rows = subject.plugin, _rows(subject.plugin)
    with random_states_kept():
        together = data.read(rows)
    for position, row in enumerate(rows):
        alone = data.read([row])
        what = f"a pixel of the cell '{alone.ids[0]}', among others, then alone,"
        nearly(
            alone.inputs[0],
            together.inputs[position],
            what,
            "What is drawn or normalised must follow from the cell, not from what is read with it.",
            within=0,
        )
        for name, region in alone.regions.items():
            what = f"the region '{name}' of the cell '{alone.ids[0]}', among others, then alone,"
            nearly(region[0], together.regions[name][position], what, "", within=0)


def a_fingerprint(subject: Subject) -> None:
    """A digest of the content, the same for a copy."""
    another = subject.plugin
    with suppress(TypeError):  # the check of pickling says so
        another = copy.deepcopy(another)
    first, second = subject.plugin.fingerprint(), another.fingerprint()
    require(
        isinstance(first, str) and len(first) >= 16 and set(first) <= set("0123456789abcdef"),
        f"fingerprint() gave {first!r}; expected a digest of at least 16 hexadecimal digits.",
    )
    require(
        first == second,
        "fingerprint() differs between two equal datasets; digest the content: no time, no path, "
        "no id().",
    )


def it_can_be_scored(subject: Subject) -> None:
    """Grad-CAM of a small model on its crops."""
    from attrscore.core.registry import MODELS

    data = subject.plugin
    model = MODELS.build("tiny_cnn", width=4, classes=2)(data.spec)
    (result,) = run(model, data.read(_rows(data)), layers="last_conv")
    states = set(map(str, result.columns["status"]))
    require(
        not states <= {"error", "empty_region", "full_region", "nonfinite", "unsupported"},
        f"no cell can be scored: {sorted(states)} {result.columns['reason'][0]}",
    )


CHECKS = (
    Check("dataset", "a table of cells", a_table_of_cells, once=True),
    Check("dataset", "crops as stated", crops_as_stated, once=True),
    Check("dataset", "the same again", the_same_again, once=True),
    Check("dataset", "a fingerprint", a_fingerprint, once=True),
    Check("dataset", "scored by Grad-CAMO", it_can_be_scored, once=True),
    Check("dataset", "pickles", pickles, once=True),
)
