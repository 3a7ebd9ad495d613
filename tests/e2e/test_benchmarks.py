"""The benchmarks run; what they measure is asserted nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "options", "expected"),
    [
        (
            "cost_of_layers",
            ["--model", "resnet18-2d"],
            ["x floor", "| attrscore.run, Grad-CAM, channels last |", "| Captum, layer by layer |"],
        ),
        ("scoring", [], ["| attrscore, a new batch |", "| torch, upsampling then masking |"]),
        ("memory", ["--model", "resnet18-2d"], ["| attrscore.run, 8 layers scored |"]),
        (
            "integrated_gradients",
            ["--model", "efficientnet-b0-2d"],
            ["| a step at a time |", "peak memory"],
        ),
        (
            "attention",
            [],
            ["| attrscore: maps of the four methods |", "| 12 blocks of a ViT-S |"],
        ),
        ("planning", [], ["| tiny CNN, 2D |"]),
        ("slopes", [], ["| cells |", "| scorers |"]),
        ("reading", [], ["| tif |", "both, share"]),
    ],
)
def test_it_prints_its_table(script, options, expected, tmp_path):
    pytest.importorskip("monai", reason="the benchmarks' networks are MONAI's; make test has it")
    command = [sys.executable, BENCHMARKS / f"{script}.py", "--quick", "--threads", "1", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in expected:
        assert text in done.stdout


def test_fused_sweeps_are_compared_with_the_same_numbers_got_otherwise(tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "fused.py", "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "4 combinations" in done.stdout
    assert "all equal" in done.stdout


def test_overheads_are_told_as_ratios(tmp_path):
    pytest.importorskip("monai", reason="one of the networks is MONAI's; make test has it")
    script = BENCHMARKS / "overheads.py"
    done = subprocess.run(
        [sys.executable, script, "--quick"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "share of a job's CPU time" in done.stdout
    assert "x start-up" in done.stdout


def test_bookkeeping_prints_times_and_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "bookkeeping.py", "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "collect .parquet" in done.stdout
    assert "status of 10 jobs of one condition" in done.stdout
    assert "status of 5 jobs of 2 parts" in done.stdout


def test_the_validation_holds_in_small(tmp_path):
    pytest.importorskip("monai", reason="the paper's network is MONAI's; make test has it")
    parts = ["hand_built", "sanity", "paper"]
    command = [sys.executable, BENCHMARKS / "validation", "--quick", "--only", *parts]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "validation" / "summary.md").read_text(encoding="utf-8")
    for claim in (
        "hires_cam: heat on the half that cannot matter | exactly 0 | 0 | holds",
        "beside 20 randomised ones",
        "no layer has more cells above 0.5 than can be",
    ):
        assert claim in summary


def test_transformers_are_validated_in_small(tmp_path):
    """One network that reads the cell and one that reads the background, all methods and blocks."""
    command = [sys.executable, BENCHMARKS / "validation", "--quick", "--only"]
    command += ["vision_transformers"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    table = (tmp_path / "validation" / "vision_transformers.csv").read_text(encoding="utf-8")
    for name in ('"hires_cam, libra",tokens,', "attention_rollout,blocks.2,", "saliency,input,"):
        assert name in table
    summary = (tmp_path / "validation" / "summary.md").read_text(encoding="utf-8")
    for name in ("attention_rollout at blocks.1", "hires_cam, libra at tokens"):
        assert f"plain: {name} separates honest from background" in summary


def test_repair_is_tried_in_small_and_goes_on_where_it_was(tmp_path):
    command = [sys.executable, BENCHMARKS / "validation", "--quick", "--only", "repair"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    kept = sorted((tmp_path / "validation" / "repair").glob("*.parquet"))
    assert len(kept) == 2
    for name in ("repair.png", "repair_arms.csv", "repair_costs.csv", "repair_findings.csv"):
        assert (tmp_path / "validation" / name).stat().st_size > 100
    summary = (tmp_path / "validation" / "summary.md").read_text(encoding="utf-8")
    assert "| repair 3 | acid test, ResNet 2D: outside, middle |" in summary
    assert "tiny 2D: swap mends a background confounder" in summary


def test_verdicts_are_tried_in_small_and_a_trial_is_kept(tmp_path):
    """Models train for two epochs here, so what the honest ones are called says nothing."""
    command = [sys.executable, BENCHMARKS / "validation", "--quick", "--only", "verdict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "validation" / "verdict").glob("*")] == [
        "tiny_2D-00.parquet"
    ]
    lines = (tmp_path / "validation" / "summary.md").read_text(encoding="utf-8").splitlines()
    for row, count in {"A": 2, "B": 2, "C": 2, "D": 4, "E": 1, "F": 2, "H": 4, "I": 1}.items():
        found = [line for line in lines if line.startswith(f"| verdict {row} |")]
        assert len(found) == count, row
        if row in "ABEH":
            assert all(line.endswith("| holds |") for line in found), found


def test_the_validation_finds_in_small_what_was_planted(tmp_path):
    """Other claims of these parts are of more cells and networks than are trained here."""
    parts = ["planted", "geometry", "real"]
    command = [sys.executable, BENCHMARKS / "validation", "--quick", "--only", *parts]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = (tmp_path / "validation" / "summary.md").read_text(encoding="utf-8").splitlines()
    for claim in (
        "separates honest from background, cell by cell",
        "separates honest from neighbours, cell by cell",
        "ranks models as the swap intervention does",
        "held-out cells on which brightness tells nothing find it",
        "2D, randomised weights: correlation with the cell's area |",
        "2D, a known map: correlation with the cell's area |",
    ):
        (line,) = [line for line in lines if claim in line]
        assert line.endswith("| holds |"), line
    assert any(line.startswith("| real cells | ") for line in lines)
    (moving,) = [line for line in lines if "2D, trained weights" in line and "chance alone" in line]
    assert "log_odds" in moving
    assert moving.endswith("| reported |")
    drawn = {path.name for path in (tmp_path / "validation").glob("planted_*")}
    assert drawn == {
        *("planted_auroc.csv", "planted_auroc.png", "planted_cells.png"),
        *("planted_strength.csv", "planted_strength.png", "planted_swap.csv", "planted_swap.png"),
    }
