"""Reasons are values: stored and read back whole, whatever their sentences hold."""

from __future__ import annotations

import pandas as pd

from attrscore.core.statuses import Reason, failed, reason_table, reasons_of, shown, stored, union

GAP = Reason("gap", "iou", "a flat map | of no use, scorer 'x': \"quoted\" µm")
FAILED = Reason("failure", "mine", "ValueError: a bug")


def test_a_reason_comes_back_whole():
    assert reasons_of(stored([GAP, FAILED])) == (GAP, FAILED)
    assert reasons_of(stored([])) == ()
    assert stored([]) == ""


def test_the_same_reason_is_said_once_and_failures_come_first():
    assert union([GAP], [GAP, FAILED]) == (FAILED, GAP)
    assert shown([FAILED, GAP]).startswith("scorer 'mine': ValueError: a bug | iou: a flat map |")


def test_reasons_are_counted_by_what_they_are_and_not_by_their_words():
    table = pd.DataFrame(
        {
            "method": ["a", "a", "b", "b"],
            "status": ["ok", "ok", "error", "ok"],
            "reasons": [stored([GAP]), stored([GAP, FAILED]), stored([FAILED]), ""],
        }
    )
    found = reason_table(table)
    assert found[["kind", "method", "status", "rows"]].to_numpy().tolist() == [
        ["gap", "a", "ok", 2],
        ["failure", "a", "ok", 1],
        ["failure", "b", "error", 1],
    ]
    assert failed(table).tolist() == [False, True, True, False]


def test_tables_from_before_reasons_were_values_have_their_text_whole():
    table = pd.DataFrame(
        {"method": ["a", "b"], "status": ["ok", "error"], "reason": ["one | two", "ValueError: x"]}
    )
    found = reason_table(table)
    assert dict(zip(found["kind"], found["text"], strict=True)) == {
        "note": "one | two",
        "failure": "ValueError: x",
    }
    assert failed(table).tolist() == [False, True]
