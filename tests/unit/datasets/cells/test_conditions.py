"""Which cells: what an expression means, and that nothing in it is run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from attrscore.datasets.cells.conditions import Condition
from attrscore.errors import ConfigError

TABLE = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "Metadata_area": [100, 250, 300],
        "Metadata_touches_border": [False, True, False],
        "Metadata_Well": ["A01", None, "B02"],
        "Metadata_dose": [1.0, np.nan, 3],
        "Metadata_flag": pd.Series([True, None, False], dtype=object),
        "Metadata_Cell count": [1, 2, 3],
        "Metadata_empty": pd.Series([None] * 3, dtype=object),
    }
)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("area > 200 and not touches_border", "c"),
        ("Metadata_area >= 250 or Well == 'A01'", "abc"),
        ("100 < area < 300", "b"),
        ("Well != 'A01'", "bc"),  # what is missing is unlike everything
        ("Well < 'B'", "a"),
        ("Well in ['A01', 'B02']", "ac"),
        ("Well not in ('A01',)", "bc"),
        ("Well in []", ""),
        ("dose > 0", "ac"),
        ("not dose > 0", "b"),
        ("dose in [1, 3]", "ac"),
        ("area / 2 + 1 > -dose * -50", "ac"),
        ("area % 0 == 1", ""),
        ("`Cell count` > 1 and `Metadata_Cell count` < 3", "b"),
        ("flag", "a"),
        ("touches_border == True", "b"),
        ("empty == 'x' or empty > 3", ""),
        ("empty != 'x'", "abc"),
        ("True", "abc"),
        ("id in ['a'] and True", "a"),
    ],
)
def test_what_holds(text, held):
    assert "".join(TABLE["id"][Condition(text)(TABLE)]) == held


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("aera > 2", "there is no column 'aera'. Did you mean 'area'"),
        ("`Cell` > 2", "there is no column 'Cell'. Did you mean"),
        ("Well > 3", "puts Well, which is text, beside 3, which is a number; text stands in quo"),
        ("area == 'x'", "puts area, which is a number, beside 'x', which is text"),
        ("Well + 'x' == 'A01x'", "puts Well, which is text"),
        ("area", "takes area for a condition, but it is a number; compare it with something"),
        ("not Well", "takes Well for a condition, but it is text"),
    ],
)
def test_what_does_not_fit_the_table_is_told(text, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("+", "[+]")):
        Condition(text)(TABLE)


@pytest.mark.parametrize(
    "text",
    [
        "area.sum() > 1",
        "__import__('os').system('true')",
        "area.__class__ == 1",
        "area[0] == 1",
        "(lambda: 1) == 1",
        "[x for x in area] == 1",
        "f'{area}' == 'x'",
        "(x := 1) == 1",
        "area > 1 if area else 2",
        "area is None",
        "area ** 9 > 1",
        "9 ** 9 ** 9 > 1",
        "~touches_border",
        "area | area",
        "[1] == [1]",
        "Well in Well",
        "Well in 'A01'",
        "Well in [area]",
        "None == 1",
        "b'x' == 1",
        "1j == 1",
        "...",
        "@area > 1",
        "area >",
        "",
        "area > 1; area",
        "-" * 3000 + "1 > 2",
        "(" * 300 + "1 > 2" + ")" * 300,
        "\0",
    ],
)
def test_anything_else_is_refused_before_there_is_a_table(text):
    with pytest.raises(ConfigError, match="where"):
        Condition(text)
