"""The page as text: what it tells, and what no name in a results file can do to it."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hostile import IMAGE, MARKUP, hostile
from results import fill, job

from attrscore import stats, store
from attrscore.report.page import page
from attrscore.report.page._conditions import (
    changed,
    changed_between,
    conditions_of,
    ranks,
    run_differences,
)
from attrscore.stats.verdict import model_verdicts

VOID = {"meta", "input", "br", "wbr", "img", "link", "path", "use", "image"}


class Elements(HTMLParser):
    """Elements with their attributes, checked to be nested, and the text outside of scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)


def made(folder, **options):
    table = store.read_scores(folder)
    found = stats.report(table, resamples=199)
    given = {"results": [folder], "runs": {}, "command": f"attrscore report {MARKUP}"} | options
    return page(table, found, **given)


@pytest.fixture(scope="module")
def enemy(tmp_path_factory):
    return hostile(tmp_path_factory.mktemp("hostile"))


@pytest.mark.slow
def test_names_from_files_cannot_become_markup(enemy):
    text = made(enemy)
    elements = Elements(text)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]
    assert MARKUP in "".join(elements.words)  # shown as the text it is
    assert IMAGE in "".join(elements.words)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert html.unescape(policy).startswith("default-src 'none'; img-src data:;")
    json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.slow
def test_a_page_of_nothing_defined_says_so_and_why(enemy):
    words = " ".join("".join(Elements(made(enemy)).words).split())
    for sentence in (
        "1 cell, 2 models, 1 method and layer.",
        "No cell has a score, so there is nothing to compare.",
        "nothing is positive",
        "blank: no attribution",
        "inconclusive",
    ):
        assert sentence in words


@pytest.mark.slow
def test_the_same_results_give_the_same_page(enemy):
    assert made(enemy) == made(enemy)


@pytest.mark.slow
def test_a_page_fetches_nothing(enemy):
    text = made(enemy)
    elements = Elements(text)
    for tag, attributes in elements.found:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    places = re.findall(r"url\(\s*(.{5})", text)
    assert places  # of the pictures
    assert all(place.startswith(("#", "data:")) for place in places)
    assert "@import" not in text


@pytest.mark.slow
def test_without_crops_the_page_tells_how_to_get_them(tmp_path):
    fill(tmp_path, job(), config="seed: 0")
    assert "keep=native" in "".join(Elements(made(tmp_path)).words)


def scores(model, shift, **columns):
    values = np.arange(40) / 100 + shift
    one = pd.DataFrame({"id": [f"c{i}" for i in range(40)], "model": model, "method": "m"})
    wells = [f"A{1 + i % 8:02d}" for i in range(40)]
    return one.assign(layer="l", status="ok", grad_camo=values, Metadata_Well=wells, **columns)


def test_ranks_and_the_cells_that_changed_most():
    table = pd.concat([scores("low", 0.1), scores("high", 0.3)], ignore_index=True)
    table.loc[(table["id"] == "c7") & (table["model"] == "low"), "grad_camo"] = 0.9
    conditions = conditions_of(table, stats.report(table, resamples=199), null=None)
    assert [(row["name"], row["rank"], row["first"]) for row in ranks(conditions)] == [
        ("high", 1.0, 1),
        ("low", 2.0, 0),
    ]
    assert ranks(conditions)[0]["wins"] == 39 / 40
    assert [row["name"] for row in ranks(conditions, better="lower")] == ["low", "high"]
    first = changed(conditions)[0]
    assert (first["id"], first["first"], first["second"]) == ("c7", "low", "high")
    assert first["difference"] == pytest.approx(0.9 - 0.37)


@pytest.mark.slow
def test_what_changed_most_is_of_one_layer_and_each_cell_stands_once():
    """A layer's scores have limits of their own; and 1e-8 is rounding, not a change."""
    one = scores("net", 0.1)
    table = pd.concat(
        [
            one.assign(layer="deep"),
            one.assign(layer="deep", method="b", grad_camo=one["grad_camo"] + 1e-8),
            one.assign(layer="deep", method="c", grad_camo=one["grad_camo"] ** 2),
            one.assign(layer="shallow", method="d", grad_camo=one["grad_camo"] + 0.5),
        ],
        ignore_index=True,
    )
    rows = changed(conditions_of(table, stats.report(table, resamples=199), null=None))
    assert {row["second"] for row in rows} == {"c deep"}
    assert {row["held"] for row in rows} == {"net deep"}
    twice = pd.concat([table, table.assign(model="other", grad_camo=0.0)], ignore_index=True)
    rows = changed(conditions_of(twice, stats.report(twice, resamples=199), null=None))
    assert len({row["id"] for row in rows}) == len(rows) > 4
    assert {(row["first"], row["second"]) for row in rows} == {("net", "other")}


def test_runs_are_compared_on_the_same_cells():
    runs = {"a": scores("net", 0.3), "b": scores("net", 0.1)[5:]}
    (row,) = run_differences(runs, "grad_camo", resamples=199)
    assert (row["held"], row["cells"], row["unmatched"]) == ("net m l", 35, 5)
    assert row["difference"] == pytest.approx(0.2)
    assert row["q"] == row["p"]
    renamed = {"a": scores("net", 0.3), "b": scores("other", 0.1)}
    assert run_differences(renamed, "grad_camo", resamples=199)[0]["held"] == "m l"
    assert {row["first"] for row in changed_between(runs, "grad_camo")} == {"a"}
    assert len(changed_between(runs, "grad_camo")) == 8


def test_a_model_is_spoken_for_by_its_primary_condition_and_the_others_stand_beside():
    evidence = (stats.Evidence("outside", "missing", "no swap"),)
    kinds = {"l0": "inconclusive", "l1": "cell-focused", "l2": "looks elsewhere"}
    verdicts = [
        stats.Verdict(kind, kind, evidence, {"model": "n", "method": "m", "layer": layer}, i == 1)
        for i, (layer, kind) in enumerate(kinds.items())
    ]
    (judged,) = model_verdicts(verdicts, ["model", "method", "layer"])
    assert (judged.name, judged.primary.kind) == ("n", "cell-focused")
    assert [name for name, _ in judged.verdicts] == ["m l1", "m l0", "m l2"]


@pytest.mark.slow
def test_the_page_shows_the_kind_the_numbers_and_the_rule(tmp_path):
    cells = scores("net", 0.3, **{"grad_camo.log_odds": 0.3, "grad_camo.resolved": 0.3})
    swap = {"inside": 0.4, "cell": 0.4, "outside": 0.01, "outside_flips": 0.02}
    swap |= {"outside_share": 0.09}
    cells = cells.assign(**{f"swap.{name}": value for name, value in swap.items()})
    cells = cells.assign(**{"model.randomize": "none", "seed": 0})
    beside = cells.drop(columns=[n for n in cells if n.startswith("swap.")]).assign(layer="a")
    draws = [
        beside.assign(layer="l", seed=i, **{"model.randomize": "all", "grad_camo.log_odds": 0.0})
        for i in range(19)
    ]
    table = pd.concat([beside.assign(depth=0.2), cells.assign(depth=0.9), *draws])
    found = stats.report(table, resamples=199)
    fill(tmp_path, job(), config="seed: 0")
    text = page(table, found, results=[tmp_path], runs={}, command="attrscore report")
    words = " ".join("".join(Elements(text).words).split())
    for sentence in (
        "net cell-focused",
        "By its primary condition, m l; the others stand beside it and have no vote",
        "1 of 20 p = 0.050",
        "yes +0.40 [0.40, 0.40]",
        "1 of 1 p = –",
        "Something matters where its drop is 0.1 or more",
        "it reads the cell, and its surroundings too",
    ):
        assert sentence in words, sentence
    assert 'class="verdict cell-focused"' in text
