"""``hydra/launcher=dask``: the jobs of a sweep on Dask, here or where a scheduler's workers are.

dask-jobqueue starts such workers on Slurm, PBS, LSF or SGE. A job whose worker dies runs again on
another, three times at most.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from attrscore.cli import sweeps
from attrscore.errors import ConfigError

__all__ = ["DaskLauncher"]

_ONE_AT_A_TIME = threading.Lock()
"""Hydra's state belongs to a process, whatever number of threads its worker has."""


ConfigStore.instance().store(
    group="hydra/launcher",
    name="dask",
    node={
        "_target_": "hydra_plugins.attrscore_dask.DaskLauncher",
        # address (tcp://host:8786) or file (scheduler.json) of a scheduler; null: workers here
        "scheduler": None,
        # processes on this machine, where no scheduler is given
        "n_workers": 2,
    },
)


class DaskLauncher(Launcher):
    """Gives every job to Dask, and waits for each by itself."""

    def __init__(self, scheduler: str | None, n_workers: int) -> None:
        self.scheduler, self.n_workers = scheduler, n_workers

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """As Hydra calls it."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """What became of each job is known to the sweep; here they only end."""
        if find_spec("distributed") is None:
            raise ConfigError(
                "hydra/launcher=dask needs distributed: pip install 'attrscore[dask]'"
            )
        jobs = dict(enumerate(job_overrides, initial_job_idx))
        left = sweeps.unfinished(jobs, self.hydra_context.config_loader, self.config)
        if left:
            self._wait(left, Singleton.get_state())
        return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]

    def _wait(self, left: dict[int, list[str]], state: dict[Any, Any]) -> None:
        import dask
        from distributed import Client, KilledWorker, as_completed

        from attrscore.cli.output import stderr

        where: dict[str, Any] = {"n_workers": self.n_workers, "threads_per_worker": 1}
        where["dashboard_address"] = None
        if self.scheduler is not None:
            by = "scheduler_file" if self.scheduler.endswith(".json") else "address"
            where = {by: self.scheduler}
        # else every worker gets one thread, whatever share of the cores is its own
        free = dask.config.set({"distributed.nanny.pre-spawn-environ": {}})
        with free, Client(**where) as client:
            futures = {
                client.submit(self._job, number, each, str(Path.cwd()), state, pure=False): number
                for number, each in left.items()
            }
            for future in as_completed(list(futures)):
                number, raised = futures[future], future.exception()
                how = "killed" if isinstance(raised, KilledWorker) else "failed"
                how = sweeps.over(number, how, f"{type(raised).__name__}: {raised}")
                stderr().print(f"job {number}: {how}", soft_wrap=True)

    def _job(self, number: int, overrides: list[str], folder: str, state: dict[Any, Any]) -> None:
        """Runs on a worker, in the folder of the command."""
        with _ONE_AT_A_TIME:
            os.chdir(folder)
            setup_globals()
            Singleton.set_state(state)
            own = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            with open_dict(own):
                own.hydra.job.id, own.hydra.job.num = f"{own.hydra.job.name}_{number}", number
            where = "hydra.sweep.dir", "hydra.sweep.subdir"
            ended = run_job(self.task_function, own, *where, self.hydra_context)
            ended.return_value  # noqa: B018  # raises what the job raised
