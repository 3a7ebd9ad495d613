"""The README is run: its Python in one namespace, its commands in order in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from attrscore.cli.main import main

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_python_examples(capsys):
    namespace: dict[str, object] = {}
    examples = [text for language, text in BLOCKS if language == "python"]
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, README, "exec"), namespace)
    assert "integrated_gradients" in capsys.readouterr().out
    assert len(namespace["scores"]) == 64 * 3


def own_images() -> None:
    """What the section on own images takes for granted."""
    rng = np.random.default_rng(0)
    rows = []
    for folder in ("images", "masks"):
        Path(folder).mkdir()
    for field in range(4):
        labels = np.zeros((120, 120), np.uint16)
        for number, (y, x) in enumerate([(30, 30), (30, 90), (90, 30), (90, 90)], start=1):
            labels[y - 12 : y + 12, x - 12 : x + 12] = number
            treatment = "DMSO" if number % 2 else "drug"
            rows.append({"image": f"f{field}.tif", "label": number, "treatment": treatment})
        image = rng.integers(0, 60, labels.shape) + 150 * (labels % 2 == 1) + 80 * (labels > 0)
        tifffile.imwrite(f"images/f{field}.tif", image.astype(np.uint16))
        tifffile.imwrite(f"masks/f{field}.tif", labels)
    pd.DataFrame(rows).to_csv("labels.csv", index=False)


def test_commands(capsys):
    own_images()
    text = "\n".join(text for language, text in BLOCKS if language == "")
    commands = [line for line in text.splitlines() if line.startswith("attrscore")]
    assert len(commands) == 20
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        verb = words[:1] if words and words[0].isalpha() else []
        small = (
            []
            if verb and verb[0] in ("collect", "export", "plugins", "report", "status", "verify")
            else ["dataset.cells=48"]
        )
        if "dataset=fields" in words:
            small = []
        epochs = ["train.epochs=2"] if verb == ["train"] else []
        assert main([*words, *small, *epochs]) == 0, (command, capsys.readouterr().err)
    assert len(pd.read_csv("scores.csv"))
    assert Path("mine/figures/scores.png").exists()


def test_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README.read_text(), flags=re.MULTILINE):
        assert f"\n{target}:" in makefile
