"""``hydra/launcher=slurm``: the jobs of a sweep on Slurm, by submitit, each waited for by itself.

What hydra-submitit-launcher has, with other ends: a job that is cancelled or killed costs itself
alone, and how it ended is said. ``squeue`` knows that, so Slurm needs no accounting.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from attrscore.cli import slurm, sweeps
from attrscore.errors import ConfigError, preview

try:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, SlurmQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit
except ImportError:  # the extra is not installed: there is no such launcher
    __all__: list[str] = []
else:
    __all__ = ["SlurmLauncher"]

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
            absent = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
            if absent:
                raise ConfigError(
                    f"hydra/launcher=slurm needs {preview(absent)} on the path; submit from a "
                    "machine of the cluster, or leave the launcher out."
                )
            asked = dict(enumerate(job_overrides, initial_job_idx))
            jobs = slurm.left_there(asked)
            rest = {number: each for number, each in asked.items() if number not in jobs}
            left = sweeps.unfinished(rest, self.hydra_context.config_loader, self.config)
            submitted = self._submitted(left) if left else {}
            jobs |= {number: job.job_id for number, job in submitted.items()}
            slurm.wait(jobs, {number: job.paths.stderr for number, job in submitted.items()})
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
            submitted = dict(zip(left, jobs, strict=True))
            sweeps.queued({number: job.job_id for number, job in submitted.items()})
            return submitted
