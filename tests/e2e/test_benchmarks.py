"""The benchmarks run; what they measure is asserted nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_cost_of_layers_prints_ratios_to_the_floor(tmp_path):
    pytest.importorskip("monai", reason="the benchmark's networks are MONAI's; make test has it")
    script = BENCHMARKS / "cost_of_layers.py"
    options = ["--quick", "--no-peers", "--network", "resnet18-2d"]
    done = subprocess.run(
        [sys.executable, script, *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "x floor" in done.stdout
    assert "attrscore.run, scored" in done.stdout
