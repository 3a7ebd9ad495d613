"""The leaderboard: who has to win wins, and the same command gives the same table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from browser import chromium, opened

import attrscore
from attrscore.cli.commands.leaderboard import _overrides
from attrscore.cli.main import main
from attrscore.core.contracts import INPUT
from attrscore.core.registry import METHODS

HERE = "hydra/launcher=basic"
"""Other processes know no plugin that is registered in this one."""
TESTS = ["rank.hand_built", "rank.planted", "rank.sanity"]
COSTS = ["seconds", "memory", "pareto"]


def noise(run):
    """Knows nothing."""
    generator = torch.Generator().manual_seed(int(1e6 * float(run.batch.inputs.sum())) % 2**31)
    return {INPUT: torch.rand(run.batch.inputs.shape, generator=generator)}


def reads_as_it_is(run):
    """The mask of what the model reads: each region by how much others' pixels there change it."""
    batch = run.batch
    cell = batch.regions["cell"]
    neighbours = batch.regions.get("neighbours", torch.zeros_like(cell)) & ~cell
    heat = torch.zeros(cell.shape)
    with torch.no_grad():
        for region in (cell, neighbours, ~cell & ~neighbours):
            change = torch.zeros(len(cell))
            for shift in (1, 2, 3):
                donors = batch.inputs.roll(shift, 0)
                changed = torch.where(region[:, None], donors, batch.inputs)
                after = run.explained(changed, *run.additional)
                before = run.explained(batch.inputs, *run.additional)
                change += (after - before).abs().float()
            heat += region * change.view(-1, *[1] * (cell.ndim - 1))
    return {INPUT: heat[:, None]}


def silent(run):
    """No heat anywhere."""
    return {INPUT: torch.zeros_like(run.batch.inputs)}


noise.explains = reads_as_it_is.explains = silent.explains = "input"
OWN = (noise, reads_as_it_is, silent)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    for each in OWN:
        METHODS.register(each.__name__)(each)
    yield
    for each in OWN:
        METHODS._local.pop(each.__name__)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """The folder of a small leaderboard, for which four networks are trained."""
    folder = tmp_path_factory.mktemp("leaderboard") / "board"
    chosen = "method=[reads_as_it_is,saliency,noise]"
    assert main(["leaderboard", HERE, chosen, "seed=0", "plane=2D", f"results={folder}"]) == 0
    return folder


def test_noise_is_last_and_the_mask_of_what_is_read_first(board):
    table = pd.read_csv(board / "leaderboard.csv").set_index("method")
    assert set(table.index) == {"reads_as_it_is", "saliency", "noise"}
    for test in TESTS:
        # where others are right too, as on hand-built networks, they share the rank
        assert table.loc["reads_as_it_is", test] == table[test].min(), table[TESTS]
        assert (table.loc["noise", test] > table[test].drop("noise")).all(), table[TESTS]
    assert table["rank.planted"].idxmin() == "reads_as_it_is"
    assert table.loc["reads_as_it_is", "blind"] == 0
    assert abs(table.loc["noise", "blind"] - 0.5) < 0.02
    assert abs(table.loc["noise", "background"] - 0.5) < 0.2


TINY = ["seed=0", "plane=2D", "planes={2D:[16,16]}", "train.epochs=1", "dataset.cells=8"]
TINY += ["train.dataset.cells=32"]


def test_the_same_command_gives_the_same_table_whether_it_goes_on_or_begins_anew(tmp_path):
    chosen = "method=[hires_cam,lrp,noise,silent]"
    texts = []
    for name in ("first", "first", "again"):
        assert main(["leaderboard", HERE, *TINY, chosen, f"results={tmp_path / name}"]) == 0
        table = pd.read_csv(tmp_path / name / "leaderboard.csv", dtype=str)
        assert set(table["explains"]) == {"margin", "logit"}  # LRP explains one output
        assert table.set_index("method").loc["silent", "reason"] == "status no_positive_mass"
        assert float(table["seconds"].astype(float).min()) > 0
        texts.append(table.drop(columns=COSTS).to_csv(index=False))
    assert texts[0] == texts[1] == texts[2]


def test_jobs_that_run_side_by_side_give_the_same_table(tmp_path):
    command = [Path(sys.executable).with_name("attrscore"), "leaderboard", *TINY]
    command += ["method=[saliency,smooth_grad]", "reads=cell,random"]
    for name, launcher in (("beside", []), ("after", [HERE])):
        subprocess.run([*command, f"results={name}", *launcher], check=True, cwd=tmp_path)
    beside, after = (pd.read_csv(tmp_path / n / "leaderboard.csv") for n in ("beside", "after"))
    pd.testing.assert_frame_equal(beside.drop(columns=COSTS), after.drop(columns=COSTS))


def test_the_table_is_handed_over_as_csv_parquet_and_latex(board):
    written = pd.read_parquet(board / "leaderboard.parquet")
    text = pd.read_csv(board / "leaderboard.csv")
    assert list(written) == list(text)
    assert written["method"].tolist() == text["method"].tolist()
    assert written["rank"].tolist() == text["rank"].tolist()
    latex = (board / "leaderboard.tex").read_text()
    assert r"reads\_as\_it\_is" in latex
    assert latex.count(r"\\") >= 4


def test_quick_bounds_what_costs_passes_whichever_method_has_it():
    """Also a stranger's; what the user says goes before."""

    def stranger(run, /, *, steps: int = 100, samples: int = 7, noise: float = 0.5):
        """Steps along a way."""

    METHODS.register("stranger")(stranger)
    try:
        given = _overrides(
            "leaderboard", "--quick", ["stranger"], ["method.stranger.steps=50", "seed=3"]
        )
    finally:
        METHODS._local.pop("stranger")
    assert [each for each in given if each.startswith("method.")] == [
        "method.stranger.steps=8",
        "method.stranger.steps=50",
    ]


def test_a_flag_that_is_none_is_said_before_anything_runs(tmp_path, capsys):
    assert main(["leaderboard", "--fulll", f"results={tmp_path / 'none'}"]) == 2
    assert "leaderboard has no --fulll. Did you mean '--full'?" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_what_quick_does_not_ask_is_said(board, capsys):
    assert main(["report", str(board)]) == 0
    assert "Not asked: faithfulness" in capsys.readouterr().out


def test_networks_are_trained_once_and_named_by_what_they_depend_on(board):
    names = sorted(path.name for path in (board / "networks").iterdir())
    assert len(names) == 4  # cell, background, neighbours, chance


def test_the_page_sorts_filters_and_shows_cells_under_every_method(board, tmp_path):
    assert main(["report", str(board), "-o", str(tmp_path)]) == 0
    with chromium() as browser, opened(browser, tmp_path / "report.html") as page:
        heads = [each.inner_text() for each in page.query_selector_all("#entries thead th")]
        assert heads[:2] == ["method", "layer"]
        rows = "#entries tbody tr:not([hidden]) th"
        listed = [each.inner_text() for each in page.query_selector_all(rows)]
        assert set(listed) == {"reads_as_it_is", "saliency", "noise"}
        page.locator("#entries thead th").nth(3).locator("button").click(click_count=2)
        assert page.query_selector_all(rows)[0].inner_text() in ("noise", "reads_as_it_is")
        page.fill("#find-entries", "salie")
        assert [each.inner_text() for each in page.query_selector_all(rows)] == ["saliency"]
        for name in ("methods", "ranks", "pareto"):
            assert page.query_selector(f"#{name} svg")
        card = page.query_selector(".card")
        columns = [each.inner_text() for each in card.query_selector_all("thead th")]
        assert {"noise input", "saliency input"} <= set(columns)
        assert card.query_selector(".tile .view")
        assert "--lines-xy:url(" in card.get_attribute("style")


def test_a_figure_of_it_alone_and_its_numbers(board, tmp_path, capsys):
    assert main(["report", str(board), "--figure", "pareto", "-o", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").stat().st_size > 5000
    assert main(["report", str(board), "--figure", "area"]) == 2
    assert "A leaderboard has no figure 'area'." in capsys.readouterr().err
    assert main(["report", str(board), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[-1]["method"] == "noise"


def test_another_results_folder_is_no_leaderboard(tmp_path):
    from attrscore.errors import DataError
    from attrscore.report.leaderboard import leaderboard

    rows = [f"results={tmp_path}", "dataset.cells=4", "dataset.size=[16,16]", "figures=none"]
    assert main([*rows, f"hydra.run.dir={tmp_path}/hydra"]) == 0
    with pytest.raises(DataError, match="is no leaderboard; run: attrscore leaderboard"):
        leaderboard(tmp_path)
    assert "method" in attrscore.read_scores(tmp_path)
