"""A mistake in the data is named by every command that meets it, and again by the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from attrscore.cli.main import main

SETTINGS = [
    "dataset=fields",
    "dataset.images=images",
    "dataset.masks=masks",
    "dataset.nuclei=nuclei",
    "dataset.labels=labels.csv",
    "dataset.label_column=treatment",
    "dataset.axes=YX",
    "dataset.crop=[32,32]",
]
SHIFTED = "red flag: the nucleus is empty in 16 of 16 cells (f0:1, f0:2, f0:3): "
PLATES = "red flag: the plate, or batch, alone shows the class of 16 of 16 cells (DMSO: P1, "


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), []
    for folder in ("images", "masks", "nuclei"):
        (tmp_path / folder).mkdir()
    for field in range(4):
        cells, nuclei = np.zeros((120, 120), np.uint16), np.zeros((120, 120), np.uint16)
        for number, (y, x) in enumerate([(30, 30), (30, 90), (90, 30), (90, 90)], start=1):
            cells[y - 10 : y + 10, x - 10 : x + 10] = number
            nuclei[y - 4 : y + 4, x - 4 : x + 4] = number + 1
            treatment = "drug" if field % 2 else "DMSO"
            rows.append(
                {
                    "image": f"C:\\screen\\f{field}.tif",
                    "label": number,
                    "treatment": treatment,
                    "Metadata_Plate": {"DMSO": "P1", "drug": "P2"}[treatment],
                    "Metadata_Well": f"W{field}",
                }
            )
        image = rng.integers(0, 99, cells.shape) + 100 * (cells > 0)
        for folder, values in (("images", image), ("masks", cells), ("nuclei", nuclei)):
            tifffile.imwrite(tmp_path / folder / f"f{field}.tif", values.astype(np.uint16))
    pd.DataFrame(rows).to_csv("labels.csv", index=False)


def test_from_inspect_to_the_report(study, capsys):
    assert main(["inspect", *SETTINGS]) == 0
    said = [capsys.readouterr().err]
    assert main(["inspect", *SETTINGS, "method=grad_cam"]) == 0
    said.append(capsys.readouterr().err)
    assert main(["train", *SETTINGS, "train.epochs=1", "train.output=w.safetensors"]) == 0
    said.append(capsys.readouterr().err)
    assert main([*SETTINGS, "model.weights=w.safetensors"]) == 0
    said.append(capsys.readouterr().err)
    for text in said:
        lines = text.splitlines()
        for flag in (SHIFTED, PLATES):
            assert sum(line.startswith(flag) for line in lines) == 1, text

    (job,) = Path("results/jobs").glob("*/job.json")
    kept = json.loads(job.read_text())["provenance"]["red_flags"]
    assert [flag["kind"] for flag in kept] == ["nucleus_empty", "class_by_plate"]
    assert kept[0]["count"] == 16
    assert kept[0]["examples"] == ["f0:1", "f0:2", "f0:3"]

    assert main(["report", "results"]) == 0
    terminal = capsys.readouterr().out
    assert "red flag: fields: the nucleus is empty in 16 of 16 cells" in terminal
    assert main(["report", "results", "-o", "page"]) == 0
    page = Path("page/report.html").read_text()
    assert "the plate, or batch, alone shows the class of 16 of 16 cells" in page
    assert main(["report", "results", "--json"]) == 0
    capsys.readouterr()


def test_flags_are_data_for_programs(study, capsys):
    assert main(["inspect", *SETTINGS, "--json", "figures=none"]) == 0
    flags = json.loads(capsys.readouterr().out)["red_flags"]
    assert [(flag["kind"], flag["count"], flag["of"]) for flag in flags] == [
        ("nucleus_empty", 16, 16),
        ("class_by_plate", 16, 16),
    ]
    assert all(flag["advice"] for flag in flags)
