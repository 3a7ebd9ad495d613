"""Results in the stores of the trackers themselves, offline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, fill, job

from attrscore.cli.main import main
from attrscore.store import Condition, read_scores

BOTH = (Condition(GRAD_CAM, "features.3", GRAD_CAMO), Condition(IG, "input", GRAD_CAMO))


@pytest.fixture
def run(tmp_path):
    """Two jobs: of two methods, with a figure drawn by the job, and of one on random weights."""
    folder = tmp_path / "my results µ"
    random = {**BASE, "model": {**BASE["model"], "options": {"randomize": "all"}}}
    fill(folder, job(*BOTH), config="seed: 0")
    fill(folder, job(BOTH[0], base=random), labels={"model": "twin", "dataset": "d"})
    drawn = folder / "jobs" / job(*BOTH).id / "figures"
    drawn.mkdir()
    matplotlib.image.imsave(drawn / "cells.png", np.zeros((4, 4)))
    return folder


@pytest.mark.slow
def test_mlflow_has_a_run_a_job(run, tmp_path, capsys):
    mlflow = pytest.importorskip("mlflow")
    assert main(["export", str(run), "--to", "mlflow"]) == 0
    store = run / "export" / "mlflow" / "mlflow.db"
    assert f"mlflow ui --backend-store-uri sqlite:///{store}" in capsys.readouterr().out
    client = mlflow.MlflowClient(f"sqlite:///{store}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "attrscore")
    runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"tiny phantom"}  # the twin is left out
    whole = runs["tiny phantom"]
    scores = read_scores(run / "jobs" / job(*BOTH).id)
    assert whole.info.status == "FINISHED"
    assert whole.data.metrics["grad_cam/features.3/grad_camo"] == pytest.approx(0.2)
    assert whole.data.metrics["integrated_gradients/input/grad_camo.chance"] == 0.25
    assert whole.data.params["method.integrated_gradients"] == "steps=32"
    assert whole.data.params["model.width"] == "8"
    assert whole.data.tags["attrscore.data_fingerprint"] == "f0"
    files = Path(client.download_artifacts(whole.info.run_id, "", str(tmp_path)))
    assert (files / "config.yaml").read_text() == "seed: 0"
    assert json.loads((files / "provenance.json").read_text())[0]["job"] == job(*BOTH).id
    assert len(pd.read_csv(files / "scores.csv")) == len(scores)
    assert {"cells.png", "distributions.png"} <= {p.name for p in (files / "figures").iterdir()}
    assert main(["export", str(run), "--to", "mlflow"]) == 2  # they are there
    assert "say --force to log them anew" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "mlflow", "--force", "--twins"]) == 0
    names = [each.info.run_name for each in client.search_runs([experiment.experiment_id])]
    assert sorted(names) == ["tiny phantom", "twin d"]


@pytest.mark.slow
def test_wandb_has_a_run_a_job(run, capsys):
    pytest.importorskip("wandb")
    chosen = ["--method", "integrated_gradients"]  # which one job has
    assert main(["export", str(run), "--to", "wandb", *chosen]) == 0
    folder = run / "export" / "wandb"
    assert f"wandb sync {folder}/wandb/offline-run-*" in capsys.readouterr().out
    (logged,) = (folder / "wandb").glob("offline-run-*")
    assert logged.name.endswith(job(*BOTH).id)
    assert {each.name for each in (logged / "files").iterdir()} >= {
        *("scores.csv", "config.yaml", "provenance.json", "media")
    }
    assert set(pd.read_csv(logged / "files" / "scores.csv")["method"]) == {"integrated_gradients"}
    pictures = {path.name.partition("_")[0] for path in logged.rglob("media/**/*.png")}
    assert {"cells", "distributions"} <= pictures
    (database,) = logged.glob("run-*.wandb")
    for said in ("integrated_gradients/input/grad_camo.chance", "model.width", "command"):
        assert said.encode() in database.read_bytes()
    assert main(["export", str(run), "--to", "wandb", *chosen]) == 2
    assert main(["export", str(run), "--to", "wandb", *chosen, "--force"]) == 0
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_what_is_asked_wrongly_is_said_in_a_sentence(tracker, run, tmp_path, capsys, monkeypatch):
    export = ["export", str(run), "--to", tracker]
    assert main([*export, "--excel"]) == 2
    assert f"--excel belongs to tables, not to --to {tracker}." in capsys.readouterr().err
    assert main([*export, "--method", "grad_cma"]) == 2
    assert "no method 'grad_cma'. Did you mean 'grad_cam'?" in capsys.readouterr().err
    read_scores(run).to_parquet(tmp_path / "table.parquet")
    assert main(["export", str(tmp_path / "table.parquet"), "--to", tracker]) == 2
    assert "needs a results folder with its jobs" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, tracker, None)
    assert main(export) == 1
    assert f'pip install "attrscore[{tracker}]"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_store_that_is_none_is_said(run, tmp_path, capsys):
    pytest.importorskip("mlflow")
    (tmp_path / "mlflow.db").write_text("no database")
    assert main(["export", str(run), "--to", "mlflow", "-o", str(tmp_path)]) == 1
    assert "mlflow.db cannot be used: " in capsys.readouterr().err
