"""One table says what the columns of results hold."""

from __future__ import annotations

import pytest

from attrscore.core.columns import COLUMNS, KEY_COLUMNS, column_of, title_of


@pytest.mark.parametrize("name", COLUMNS)
def test_every_entry_is_reached_and_says_what_it_holds(name):
    assert column_of(name.replace("*", "x")) is COLUMNS[name]
    assert COLUMNS[name].says
    assert COLUMNS[name].known


def test_what_a_row_is_about_comes_first():
    assert KEY_COLUMNS[:6] == ("id", "model", "dataset", "method", "layer", "depth")
    assert not [name for name in KEY_COLUMNS if "*" in name]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Metadata_Well", "metadata"),
        ("scorer.grad_camo.auc", "option"),
        ("grad_camo.auc", "score"),
        ("completeness_error", "diagnostic"),
        ("swap.inside", "score"),
    ],
)
def test_a_column_that_is_not_listed_by_name_has_the_kind_of_its_pattern(name, kind):
    assert column_of(name).kind == kind


def test_heads_of_tables_are_short():
    assert title_of("My.Score") == "My.Score"
    assert title_of("Metadata_Plate") == "plate"
    assert title_of("grad_camo.log_odds") == "log odds"
