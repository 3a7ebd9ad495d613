"""Hydra's sweepers of attrscore; Hydra looks for plugins in this namespace and nowhere else.

``attrscore``, the default, is Hydra's basic sweeper, with the outcome of every job told at the end,
whatever launcher ran it. ``attrscore_fused`` also runs combinations that differ in methods, layers
and scorers only as one job.
"""

# No "from __future__ import annotations": Hydra runs this file before the module is in sys.modules,
# where dataclasses would look such annotations up.

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import HydraException
from omegaconf import OmegaConf

from attrscore.cli.outcomes import FAILED, USAGE, Told, say_finished, sweep_ended
from attrscore.cli.sweeps import LISTED, Swept, combinations, fuse, workers_known
from attrscore.core.registry import REGISTRIES, is_one_plugin

__all__ = ["FusedSweeper", "ToldSweeper"]


@dataclass
class ToldSweeperConf:
    """As of Hydra's basic sweeper."""

    _target_: str = "hydra_plugins.attrscore_fused.ToldSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


@dataclass
class FusedSweeperConf(ToldSweeperConf):
    """As of Hydra's basic sweeper."""

    _target_: str = "hydra_plugins.attrscore_fused.FusedSweeper"


for _name, _node in (("attrscore", ToldSweeperConf), ("attrscore_fused", FusedSweeperConf)):
    ConfigStore.instance().store(
        group="hydra/sweeper", name=_name, node=_node, provider="attrscore"
    )


class ToldSweeper(BasicSweeper):
    """Every combination is a job of its own."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """As Hydra's; the function is kept, because it knows the exit code."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task_function = task_function
        self.launched = 0

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run all jobs; what each came to is told at the end, and kept for the exit code."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = {
            o.get_key_element(): o for o in parser.parse_overrides(self._parse_config() + arguments)
        }
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        done = self.run_all([_swept(key, override, parser) for key, override in given.items()])
        sweep_ended([_told(job) for job in done], self.task_function)
        return done

    def run_all(self, swept: Sequence[Swept]) -> list[JobReturn]:
        """Run every combination."""
        return self.launch(combinations(swept))

    def launch(self, jobs: Sequence[Sequence[str]]) -> list[JobReturn]:
        """Run these jobs but for those that are finished, ``max_batch_size`` at a time at most."""
        known = [self._known(job) for job in jobs]
        todo = [list(job) for job, told in zip(jobs, known, strict=True) if told is None]
        if len(todo) < len(jobs):
            say_finished(len(jobs) - len(todo), len(jobs), str(self.config.results))
        done: list[JobReturn] = []
        for batch in self.split_overrides_to_chunks(todo, self.max_batch_size) if todo else ():
            self.validate_batch_is_legal(batch)
            with workers_known(self.config.hydra.launcher, len(batch)):
                try:
                    done += self.launcher.launch(batch, initial_job_idx=self.launched)
                except Exception as error:  # noqa: BLE001  # a worker died, its launcher gave up
                    done += [_lost(job, error) for job in batch]
            self.launched += len(batch)
        ran = iter(done)
        return [
            next(ran) if told is None else JobReturn(list(job), _return_value=told)
            for job, told in zip(jobs, known, strict=True)
        ]

    def _known(self, job: Sequence[str]) -> Told | None:
        """What a job came to that is finished."""
        named = filter_overrides(job)
        results = str(self.config.results)
        if any(each.lstrip("+~").startswith("results=") for each in named):
            given = [each for each in named if each.startswith("results=")]
            if given != [f"results={results}"]:  # swept, or written in another way
                return None
        sources = self.config.hydra.runtime.config_sources
        return self.task_function.known(results, named, sources)


class FusedSweeper(ToldSweeper):
    """Combinations that differ in methods, layers and scorers only are one job.

    Where such a job cannot start because of what its combinations ask for, they run apart, so that
    a wrong layer costs its own combination alone.
    """

    def run_all(self, swept: Sequence[Swept]) -> list[JobReturn]:
        """Run the fused jobs, then apart what they could not do."""
        choices = [
            (each.key, name) for each in swept if each.key in REGISTRIES for name in each.names
        ]
        fused = fuse(swept, alone=[name for key, name in choices if not is_one_plugin(key, name)])
        done = iter(self.launch([job for each in fused for job in each.jobs]))
        kept, apart = [], []
        for each in fused:
            mine = list(itertools.islice(done, len(each.jobs)))
            if len(each.apart) > len(each.jobs) and any(_told(job).code == USAGE for job in mine):
                apart += each.apart
            else:
                kept += mine
        return kept + (self.launch(apart) if apart else [])


def _swept(key: str, override: Override, parser: OverridesParser) -> Swept:
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise HydraException(f"{override.input_line}: an interval cannot be swept; name values.")
    if override.is_sweep_override():
        values = tuple(override.sweep_string_iterator())
    else:
        values = (override.get_value_element_as_str(),)
    entries: list[tuple[str, ...]] = []
    for value in values if key in LISTED else ():
        read = parser.parse_override(f"{key}={value}")._value
        listed = read if isinstance(read, list) else [read]
        if not all(isinstance(entry, (str, QuotedString)) for entry in listed):
            return Swept(key, values)  # a mapping, say: nothing that could be joined
        entries.append(tuple(map(Override._get_value_element_as_str, listed)))
    return Swept(key, values, tuple(entries))


def _lost(overrides: Sequence[str], error: Exception) -> JobReturn:
    return JobReturn(overrides, status=JobStatus.FAILED, _return_value=error)


def _told(job: JobReturn) -> Told:
    value = job._return_value  # the property would raise it
    named = filter_overrides(job.overrides)
    if isinstance(value, Told):
        return replace(value, overrides=tuple(named))
    return Told(FAILED, f"{type(value).__name__}: {value}", tuple(named))
