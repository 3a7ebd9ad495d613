"""Results logged into the local store of an experiment tracker: MLflow or Weights & Biases.

A run of the tracker is a job; of a leaderboard it is the table of all its jobs.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from attrscore import stats, store
from attrscore.core.columns import column_of
from attrscore.errors import ConfigError, StoreError, UnsupportedError, preview
from attrscore.report import figures
from attrscore.report.export import Tracker
from attrscore.report.export.tables import chosen
from attrscore.report.leaderboard import is_leaderboard, leaderboard
from attrscore.report.provenance import jobs_of
from attrscore.store.commit import make_folder
from attrscore.store.identity import identify

__all__ = ["log"]

PROJECT = "attrscore"
"""The experiment, or project, that has the runs."""

_LOCAL = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""What the trackers would send of themselves; the user's environment goes before."""


@dataclass(frozen=True)
class _Run:
    """What is logged as one run, beside files; figures are those in ``figures/``."""

    id: str
    name: str
    settings: Mapping[str, Any]
    numbers: Mapping[str, float]
    tags: Mapping[str, Any]


def log(
    results: Path,
    folder: Path,
    /,
    *,
    to: Tracker,
    methods: Sequence[str] = (),
    layers: Sequence[str] = (),
    twins: bool = False,
    force: bool = False,
) -> list[str]:
    """Log results into the store that a folder holds, or is to hold; the names of the runs.

    A run has the settings of a job, the mean over cells of every score by method and layer, and as
    files its scores, configuration, provenance and figures; that of a leaderboard has its table and
    figures. Jobs of random weights are left out without ``twins``. Nothing is sent anywhere.

    :raises ConfigError: no results folder, a method or layer that it does not have, or runs that
        the store has already, without ``force``, which replaces them.
    :raises StoreError: a store that cannot be used.
    :raises UnsupportedError: the tracker is not installed.
    """
    if results.is_file():
        raise ConfigError(f"--to {to} needs a results folder with its jobs; {results} is a file.")
    table = chosen(store.read_scores(results), methods=methods, layers=layers, twins=True)
    jobs = jobs_of([results])
    if is_leaderboard(table):
        runs = {identify(sorted(job["job"] for job in jobs)): jobs}
    else:
        trained = [job for job in jobs if twins or not job["randomised"]]
        runs = {job["job"]: [job] for job in trained or jobs}
    with _opened(to, folder) as opened:
        there = [number for number in runs if number in opened.there]
        if there and not force:
            raise ConfigError(
                f"{folder} has these results already (run {preview(there, most=3)}); say --force "
                "to log them anew, or another folder with --output."
            )
        names = []
        for number, of in runs.items():
            with TemporaryDirectory() as scratch:
                files = Path(scratch)
                run: _Run | None
                if is_leaderboard(table):
                    run = _of_leaderboard(number, results, methods, files)
                else:
                    run = _of_job(of[0], methods, layers, files)
                if run is None:
                    continue
                text = json.dumps(of, ensure_ascii=False, indent=1, default=str)
                (files / "provenance.json").write_text(text, encoding="utf-8")
                if number in opened.there:
                    opened.remove(number)
                opened.add(run, files)
                names.append(run.name)
    return names


def _of_job(
    job: Mapping[str, Any], methods: Sequence[str], layers: Sequence[str], files: Path
) -> _Run | None:
    """A job with its scores in files; None where it has none of these methods and layers."""
    scores = store.read_scores(job["path"])
    for column, asked in (("method", methods), ("layer", layers)):
        if asked:
            scores = scores[scores[column].astype(str).isin(asked)]
    if scores.empty:
        return None
    columns = [
        name
        for name in map(str, scores)
        if column_of(name).kind == "score" and scores[name].dtype.kind == "f"
    ]
    means = scores.groupby(["method", "layer"], observed=True)[columns].mean()
    numbers = {
        f"{method}/{layer}/{name}": float(value)
        for (method, layer), row in zip(means.index, means.to_numpy(), strict=True)
        for name, value in zip(columns, row, strict=True)
    }
    scores.to_csv(files / "scores.csv", index=False)
    (files / "config.yaml").write_text(job["config"], encoding="utf-8")
    score = "grad_camo" if "grad_camo" in columns else columns[0]
    for name, sheet in figures.figures_of(scores, stats.report(scores, score=score)):
        figures.save(sheet, files / "figures" / f"{name}.png")
    for path in Path(job["path"], "figures").glob("*.png"):  # those that need the cells
        shutil.copy(path, files / "figures" / path.name)
    plugins = {
        f"{kind}.{each['name']}": each["options"]
        for kind in ("method", "scorer")
        for each in job[f"{kind}s"]
    }
    settings = {"model": job["model"], "dataset": job["dataset"], **job["settings"], **plugins}
    tags = {name: job[name] for name in ("command", "model_fingerprint", "data_fingerprint", "git")}
    return _Run(job["job"], f"{job['model']} {job['dataset']}", settings, numbers, tags)


def _of_leaderboard(number: str, results: Path, methods: Sequence[str], files: Path) -> _Run:
    """The table of a leaderboard as numbers and files."""
    board = leaderboard(results, methods=methods or None)
    board.write(files)
    for name, (_, _, sheet) in board.figures().items():
        figures.save(sheet, files / "figures" / f"{name}.png")
    columns = [str(name) for name in board.table.select_dtypes("number")]
    numbers = {
        f"{row['method']}/{row['layer']}/{name}": float(row[name])
        for row in board.table.to_dict("records")
        for name in columns
    }
    settings = {f"networks.{test}": count for test, count in board.networks.items()}
    return _Run(number, "leaderboard", settings, numbers, {"statement": board.statement})


@contextmanager
def _opened(to: Tracker, folder: Path) -> Iterator[_MLflow | _WandB]:
    for name, value in _LOCAL.items():
        os.environ.setdefault(name, value)
    make_folder(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that these are made of
        try:
            yield _MLflow(folder) if to == "mlflow" else _WandB(folder)
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                f"--to {to} needs a package that is not installed ({error.name}): "
                f'pip install "attrscore[{to}]".'
            ) from error


class _MLflow:
    """Runs in ``mlflow.db``, an SQLite database, and their files in ``artifacts/``."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        folder = folder.resolve()
        try:
            self._client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
            known = self._client.get_experiment_by_name(PROJECT)
            self._experiment = (
                known.experiment_id
                if known
                else self._client.create_experiment(
                    PROJECT, artifact_location=(folder / "artifacts").as_uri()
                )
            )
            runs = self._client.search_runs([self._experiment], max_results=50000)
        except (MlflowException, SQLAlchemyError) as error:
            said = str(error).splitlines()[0]
            raise StoreError(f"{folder / 'mlflow.db'} cannot be used: {said}") from error
        self.there = {each.data.tags.get("attrscore.run"): each.info.run_id for each in runs}

    def add(self, run: _Run, files: Path, /) -> None:
        from mlflow.entities import Metric, Param, RunTag

        made = self._client.create_run(self._experiment, run_name=run.name)
        number, now = made.info.run_id, made.info.start_time
        self._client.log_batch(
            number,
            [Metric(_allowed(k), v, now, 0) for k, v in run.numbers.items() if np.isfinite(v)],
            [Param(_allowed(name), str(value)) for name, value in run.settings.items()],
            [
                RunTag(f"attrscore.{_allowed(name)}", str(value))
                for name, value in {**run.tags, "run": run.id}.items()
            ],
        )
        self._client.log_artifacts(number, str(files))
        self._client.set_terminated(number)

    def remove(self, number: str, /) -> None:
        self._client.delete_run(self.there[number])


def _allowed(name: str) -> str:
    return re.sub(r"[^\w.\- :/]", "_", name)


class _WandB:
    """Runs in ``wandb/offline-run-*``, which ``wandb sync`` uploads."""

    def __init__(self, folder: Path) -> None:
        import wandb

        self._folder, self._wandb = folder.resolve(), wandb
        runs = sorted((folder / "wandb").glob("offline-run-*-*"))
        self.there = {path.name.rpartition("-")[2]: path for path in runs}

    def add(self, run: _Run, files: Path, /) -> None:
        quiet = self._wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
        )
        with self._wandb.init(
            project=PROJECT,
            id=run.id,
            name=run.name,
            dir=self._folder,
            mode="offline",
            config={**run.settings, **{f"attrscore.{k}": v for k, v in run.tags.items()}},
            settings=quiet,
        ) as made:
            made.summary.update({k: v for k, v in run.numbers.items() if np.isfinite(v)})
            drawn = sorted(files.glob("figures/*.png"))
            made.log({f"figures/{path.stem}": self._wandb.Image(str(path)) for path in drawn})
            for path in (each for each in files.iterdir() if each.is_file()):
                made.save(shutil.copy(path, made.dir), base_path=made.dir, policy="now")

    def remove(self, number: str, /) -> None:
        shutil.rmtree(self.there[number])
