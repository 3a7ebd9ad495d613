"""How scores are to be read: declared by scorers, kept in files, used by tables and figures."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from nets import batch, net
from results import LABELS, job, table
from rich.console import Console

import attrscore
from attrscore import stats, store
from attrscore.cli import output as terminal
from attrscore.core.readings import Reading, attach, chance_of, reading_of, readings_in, readings_of
from attrscore.core.registry import SCORERS
from attrscore.errors import ConfigError
from attrscore.report import figures as plots

MISSED = {
    "other": {
        "score": {"better": "lower", "range": [0, 4], "chance": 2, "unit": "µm", "says": "gap"},
        "*.area": {"chance": None},
    }
}


def test_every_scorer_of_ours_says_how_to_read_it():
    for entry in SCORERS.entries():
        told = readings_of(SCORERS.build(entry.name))
        assert told, entry.name
        assert "score" in told or "*" in told, entry.name


def test_what_a_scorer_does_not_say_is_unknown():
    assert readings_of(lambda heat, run: heat.mass()) == {}
    rows = pd.DataFrame({"id": ["a", "b"], "x": [0.1, 0.2], "x.chance": [0.3, 0.4]})
    assert reading_of(rows, "x") == Reading()
    assert list(chance_of(rows, "x")) == [0.3, 0.4]
    assert chance_of(rows, "x.chance").isna().all()


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        ({"score": {"beter": "higher"}}, "'score' have no field 'beter'. Did you mean 'better'"),
        ({"score": {"better": "more"}}, "better='more' is not a choice"),
        ({"score": {"range": (1, 0)}}, "must rise"),
        ({"score": {"range": 3}}, "must be two numbers"),
        ({"score": {"chance": "chance"}}, "such as '.chance'"),
        ({"better": "higher"}, "from columns to mappings"),
    ],
)
def test_a_wrong_declaration_is_named(readings, words):
    def scorer(heat, run):
        return heat.mass()

    scorer.readings = readings
    with pytest.raises(ConfigError, match=words):
        readings_of(scorer)


def test_patterns_come_after_names_and_readings_follow_selections():
    rows = attach(table(job()).assign(**{"other": 3.0, "other.a.area": 0.2}), MISSED)
    some = rows[rows["id"] != "cell0"].reset_index(drop=True)
    assert reading_of(some, "other").better == "lower"
    assert reading_of(some, "other.a.area").chance is None
    assert reading_of(some, "other.b").better == "neither"
    assert (chance_of(some, "other") == 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".h5", ".parquet"])
def test_result_files_keep_readings_of_scorers_that_are_not_installed(tmp_path, suffix):
    writer = store.Writer(tmp_path / "r", job(), labels=LABELS, readings=MISSED)
    for start, stop in writer.missing():
        writer.write(start, stop, table(job(), start, stop))
    store.Writer(tmp_path / "r", job(), labels=LABELS)  # says nothing and changes nothing
    path = tmp_path / "r"
    if suffix:
        path = tmp_path / f"all{suffix}"
        store.collect(tmp_path / "r", path)
    assert readings_in(store.read_scores(path)) == MISSED


def test_evaluate_attaches_what_a_plain_function_says():
    def gap(heat, run, /):
        return heat.mass() / heat.mass()

    gap.readings = MISSED["other"]
    scores = attrscore.evaluate(net(), batch(), scorers=["grad_camo", gap], layers="high")
    assert reading_of(scores, "gap") == Reading("lower", (0, 4), 2, "µm", "gap")
    assert reading_of(scores, "grad_camo.lift").chance == 1


def test_tables_and_figures_use_it_without_knowing_the_scorer():
    rows = table(job()).rename(columns={"grad_camo": "other"}).drop(columns="grad_camo.chance")
    rows = rows.assign(model="m", dataset="d", other=np.linspace(0, 3, len(rows)))
    rows = attach(rows, MISSED)

    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(terminal.summary(rows))
    assert "lower is better: other" in shown.export_text()
    ax = plots.distribution(rows, score="other")
    assert ax.get_ylabel() == "gap (µm)"
    assert ax.get_ylim() == pytest.approx((-0.1, 4.1))
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert any("of scores below chance" in text for text in told)
    found = stats.report(rows, score="other", resamples=199)
    assert found.summary["chance"].iloc[0] == 2
    assert found.reading.sentence == "lower is better; 0 to 4; in µm; 2 by chance"
    assert found.as_dict()["reading"]["better"] == "lower"
    curve = stats.threshold_curve(rows, score="other", resamples=199)
    assert curve["threshold"].iloc[-1] == 4
    assert list(curve["chance"].iloc[[0, -1]]) == [1, 0]
