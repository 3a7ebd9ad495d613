"""``hydra/launcher=slurm``: the jobs of a sweep on Slurm, by submitit, each waited for by itself.

What hydra-submitit-launcher has, with other ends: a job that is cancelled or killed costs itself
alone, and how it ended is said. ``squeue`` knows that, so Slurm needs no accounting.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from attrscore.cli import sweeps
from attrscore.cli.outcomes import Ended
from attrscore.errors import ConfigError, preview

try:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, SlurmQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit
except ImportError:  # the extra is not installed: there is no such launcher
    __all__: list[str] = []
else:
    __all__ = ["SlurmLauncher"]

    SLOWEST, FASTEST = 30.0, 2.0
    """Seconds between two questions to Slurm: at first few, later more."""

    ConfigStore.instance().store(  # partition, mem_gb, cpus_per_task, timeout_min ...
        group="hydra/launcher",
        name="slurm",
        node=SlurmQueueConf(_target_="hydra_plugins.attrscore_slurm.SlurmLauncher"),
    )

    class SlurmLauncher(Submitit):  # type: ignore[misc]  # untyped
        """Submits the jobs that are not done as one array, and waits for every one of them."""

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> Sequence[JobReturn]:
            """What became of each job is known to the sweep; here they only end."""
            from attrscore.cli.output import stderr

            absent = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
            if absent:
                raise ConfigError(
                    f"hydra/launcher=slurm needs {preview(absent)} on the path; submit from a "
                    "machine of the cluster, or leave the launcher out."
                )
            left = {
                number: list(overrides)
                for number, overrides in enumerate(job_overrides, initial_job_idx)
                if not sweeps.finished(
                    number, self.hydra_context.config_loader, self.config, overrides
                )
            }
            if left:
                jobs = self._submitted(left)
                array = next(iter(jobs.values())).job_id.partition("_")[0]
                stop = f"they go on when this command ends. To stop them: scancel {array}"
                stderr().print(f"{len(jobs)} jobs in Slurm as {array}; {stop}", soft_wrap=True)
                try:
                    self._wait(jobs)
                except KeyboardInterrupt:
                    stderr().print(f"The jobs in Slurm were left: {stop}", soft_wrap=True)
                    raise
            return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]

        def _submitted(self, left: dict[int, list[str]]) -> dict[int, Any]:
            """Number -> submitit's job."""
            import submitit
            from submitit.core.utils import FailedJobError

            options = dict(self.params)
            shared = {each.name for each in fields(BaseQueueConf)}
            executor = submitit.AutoExecutor(
                cluster="slurm",
                folder=options.pop("submitit_folder"),
                slurm_max_num_timeout=options.pop("max_num_timeout"),
            )
            executor.update_parameters(
                **{name if name in shared else f"slurm_{name}": options[name] for name in options}
            )
            state = Singleton.get_state()
            arguments = [
                (overrides, "hydra.sweep.dir", number, f"job_id_for_{number}", state)
                for number, overrides in left.items()
            ]
            try:
                jobs = executor.map_array(self, *zip(*arguments, strict=True))
            except FailedJobError as error:
                raise ConfigError(
                    f"Slurm refused the jobs: {' '.join(str(error).split())}"
                ) from error
            for number, job in zip(left, jobs, strict=True):
                sweeps.queued(number, job.job_id)
            return dict(zip(left, jobs, strict=True))

        def _wait(self, jobs: dict[int, Any]) -> None:
            from attrscore.cli.output import stderr

            began, suspected = time.monotonic(), set[int]()
            while jobs:
                time.sleep(min(SLOWEST, max(FASTEST, (time.monotonic() - began) / 20)))
                states = sweeps.slurm_states()
                for number, job in list(jobs.items()):
                    state = "" if states is None else states.get(job.job_id, "GONE")
                    if job.paths.result_pickle in job.paths.folder.iterdir():
                        how = sweeps.lost(number, *_came_to(job))
                    elif state not in (*sweeps.SLURM_ENDED, "GONE"):
                        continue
                    elif number not in suspected:  # its files may come late over a network
                        suspected.add(number)
                        continue
                    else:
                        log = f"Slurm's state is {state}; its log: {job.paths.stderr}"
                        how = sweeps.lost(number, sweeps.SLURM_ENDED.get(state, "failed"), log)
                    stderr().print(f"job {number} ({job.job_id}): {how}", soft_wrap=True)
                    del jobs[number]

    def _came_to(job: Any) -> tuple[Ended] | tuple[str, str]:
        """What a job said of itself; else that it was stopped, and by what."""
        try:
            return (job.results()[0].return_value,)
        except Exception as error:  # noqa: BLE001  # whatever ended it there
            return "stopped", (str(error).strip().splitlines() or [type(error).__name__])[-1]
