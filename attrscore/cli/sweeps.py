"""Sweeps: how ``-m`` is rewritten, how the jobs share a machine, and what they came to.

Methods, layers and scorers of one model on one dataset share its passes. So axes over them become
lists before Hydra makes jobs of them: ``method=a,b layers=c,d`` is run as
``method=[a,b] layers=[c,d]``, one job with the same four conditions and the same numbers.
``fuse=false`` keeps one job a combination.

Jobs may run in other processes, on other machines. Each writes what it came to into the folder of
the sweep, where it is read when all have ended.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from attrscore.cli.hydra_app import register_installed, unresolved
from attrscore.cli.outcomes import FAILED, MEANING, OK, USAGE, Ended
from attrscore.core.registry import REGISTRIES, conf_dir, is_one_plugin
from attrscore.errors import AttrscoreError, stoppable

__all__ = ["LISTED", "WORKERS", "Sweep", "SweepStart", "fused", "run", "share", "workers_of"]

LISTED = ("method", "scorer", "layers")
"""Settings that may hold several values, which one job then computes together."""

WORKERS = "ATTRSCORE_WORKERS"
"""Environment variable: how many processes of a sweep work on this machine at once."""


def run(arguments: Sequence[str], job: Callable[[DictConfig], Ended], /) -> int:
    """Run ``job`` for each configuration that the arguments give, through Hydra; the exit code.

    Where a fused job cannot start, its combinations run one by one, so that a wrong layer costs
    its own combination alone.
    """
    ended, sweep = _through_hydra(arguments, job, Sweep())
    wrong = [each for each in ended if each.code == USAGE]
    if wrong and sweep.fused:
        from attrscore.cli.output import stderr

        stderr().print(f"{len(wrong)} jobs could not start: their combinations run one by one.")
        ended = [each for each in ended if each not in wrong]
        more, sweep = _through_hydra(arguments, job, Sweep(apart=wrong))
        ended += more
    if sweep.folder is not None:
        _say(ended)
    return max((each.code for each in ended), default=OK)


def _through_hydra(
    arguments: Sequence[str], job: Callable[[DictConfig], Ended], sweep: Sweep
) -> tuple[list[Ended], Sweep]:
    here: list[Ended] = []

    def one(cfg: DictConfig) -> None:
        with stoppable():
            ended = job(cfg)
        here.append(ended)  # in another process, to a copy
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            _write(ended)

    register_installed(arguments)
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and main() makes a sentence of it
    sys.argv = ["attrscore", *arguments]
    running = _SWEEP.set(sweep)
    workers = os.environ.pop(WORKERS, None)
    error: Exception | None = None
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(one)()
    except (AttrscoreError, HydraException, OmegaConfBaseException):
        raise
    except Exception as raised:
        if sweep.folder is None:
            raise
        error = raised  # a worker died, its launcher gave up: the jobs that ended are known
    finally:
        sys.argv = argv
        _SWEEP.reset(running)
        _set(WORKERS, workers)
        _set("HYDRA_FULL_ERROR", full_error)
    return (here if sweep.folder is None else sweep.ended(error)), sweep


def _set(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


@dataclass
class Sweep:
    """The sweep that this process runs; :class:`SweepStart` fills it in."""

    apart: Sequence[Ended] = ()
    """Fused jobs that could not start, of which the combinations are run."""
    folder: Path | None = None
    """Hydra's, of this sweep; None for a single job."""
    jobs: Sequence[Sequence[str]] = ()
    """The overrides of each job."""
    fused: bool = False

    def start(self, config: DictConfig) -> None:
        """Rewrite the command line that Hydra's sweeper is about to read."""
        self.folder = Path(config.hydra.sweep.dir).resolve()
        with read_write(config), open_dict(config):  # the jobs write there, whatever they sweep
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={_quoted(str(self.folder))}")
        sweeper = config.hydra.sweeper
        if not str(sweeper["_target_"]).endswith(".BasicSweeper"):
            return  # what its values mean, and which jobs it makes, is not known
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
        task = unresolved(config.hydra.overrides.task)
        given = {o.get_key_element(): o for o in parser.parse_overrides([*params, *task])}
        lines = {key: str(override.input_line) for key, override in given.items()}
        if self.apart:
            jobs = [dict(text.split("=", 1) for text in each.overrides) for each in self.apart]
            for key in lines.keys() - LISTED:
                lines[key] = f"{key}={','.join(dict.fromkeys(job[key] for job in jobs))}"
        elif config.get("fuse", True):
            joined = {key: fused(override, parser) for key, override in given.items()}
            lines |= {key: text for key, text in joined.items() if text}
            self.fused = any(joined.values())
        with read_write(config), open_dict(config):
            config.hydra.overrides.task = list(lines.values())
        swept = map(_texts, parser.parse_overrides(list(lines.values())))
        self.jobs = list(itertools.product(*swept))
        workers = workers_of(config.hydra.launcher, len(self.jobs), sweeper.max_batch_size)
        if workers > 1:
            os.environ[WORKERS] = str(workers)

    def ended(self, error: Exception | None) -> list[Ended]:
        """What each job came to, in order; those that did not say it were stopped by ``error``."""
        found = {}
        for path in (self.folder or Path()).glob("ended-*.json"):
            found[int(path.stem.partition("-")[2])] = Ended(**json.loads(path.read_bytes()))
            path.unlink()
        why = f"{type(error).__name__}: {error}" if error else "It ended without a word."
        for number, overrides in enumerate(self.jobs):
            found.setdefault(number, Ended(FAILED, why, overrides))
        if error and not self.jobs:
            found[len(found)] = Ended(FAILED, why)
        return [found[number] for number in sorted(found)]


_SWEEP: ContextVar[Sweep | None] = ContextVar("sweep", default=None)
"""Hydra makes its callbacks itself: this is how one meets the sweep that it belongs to."""


class SweepStart(Callback):
    """Hydra's callback before a sweep.

    The folder is made for its owner alone, before a launcher puts pickles there: whoever can write
    into it could run code as the owner.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Before the sweeper and its launcher are made."""
        try:
            Path(config.hydra.sweep.dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            return  # Hydra makes a warning of it, and its sweeper meets the same
        if (sweep := _SWEEP.get()) is not None:
            sweep.start(config)


def fused(override: Override, parser: OverridesParser, /) -> str:
    """An axis as a list, ``method=[a,b]`` for ``method=a,b``; empty where it has to stay an axis.

    That is so of other settings, of values that are no names, and of a configuration of one's own,
    which may hold more than one plugin.
    """
    key = override.get_key_element()
    if key not in LISTED or not override.is_discrete_sweep():
        return ""
    names: dict[str, None] = {}
    for text in override.sweep_string_iterator():
        value = parser.parse_override(f"{key}={text}").value()
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str | int) or isinstance(name, bool):
                return ""
            if key in REGISTRIES and not is_one_plugin(key, str(name)):
                return ""
            names[_quoted(name)] = None
    return f"{key}=[{','.join(names)}]"


def _quoted(name: str | int) -> str:
    """A value as Hydra reads it.

    >>> _quoted("features.3"), _quoted("a b"), _quoted("0"), _quoted(0)
    ('features.3', "'a b'", "'0'", '0')
    """
    if isinstance(name, int) or (
        re.fullmatch(r"[A-Za-z_][\w.*/-]*", name)
        and name.lower() not in ("true", "false", "null", "nan", "inf")
    ):
        return str(name)
    return "'" + name.replace("'", r"\'") + "'"


def _texts(override: Override) -> list[str]:
    """Key and value, for each value."""
    if not override.is_discrete_sweep():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={text}" for text in override.sweep_string_iterator()]


def _write(ended: Ended) -> None:
    """Keep what a job came to, where the process that started the sweep finds it."""
    config = HydraConfig.get()
    ended = replace(ended, overrides=tuple(unresolved(config.overrides.task)))
    path = Path(config.sweep.dir, f"ended-{config.job.num}.json")
    path.write_text(json.dumps(asdict(ended)), encoding="ascii")


def _say(ended: Sequence[Ended]) -> None:
    """Say how many jobs of a sweep went wrong, and why.

    They said so themselves, but some in processes that write to a log of their own.
    """
    wrong = Counter(each.code for each in ended if each.code)
    if not wrong:
        return
    from attrscore.cli.output import say_error, stderr

    counts = ", ".join(f"{number} {MEANING.get(code, code)}" for code, number in wrong.items())
    stderr().print(f"of {len(ended)} jobs: {counts}", soft_wrap=True)
    for each in ended:
        if each.why:
            say_error(each.why, [" ".join(each.overrides)])


# One machine for several processes


def workers_of(launcher: Mapping[str, Any], jobs: int, at_once: int | None = None, /) -> int:
    """How many processes a launcher starts on this machine for so many jobs.

    joblib has ``n_jobs``; submitit starts all jobs on this machine at once. What runs elsewhere
    (slurm, ray) gets cores and devices from its scheduler.
    """
    target = str(launcher.get("_target_", ""))
    jobs = min(jobs, at_once or jobs)
    if target.endswith("JoblibLauncher"):
        from joblib import effective_n_jobs

        return min(jobs, int(effective_n_jobs(launcher["n_jobs"])))
    return jobs if target.endswith("LocalLauncher") else 1


def share(settings: Mapping[str, Any], number: int, /) -> dict[str, Any]:
    """The settings of job ``number`` of a sweep, with its share of the machine.

    Where ``threads`` is null, torch gets the cores divided by the workers, but no more than it has.
    Where ``device`` is auto and there are several, they are dealt round by the number.
    """
    import torch  # here: what starts a sweep needs none

    workers = int(os.environ.get(WORKERS, "1"))
    settings = dict(settings)
    if workers > 1 and settings["threads"] is None:
        settings["threads"] = min(torch.get_num_threads(), max(1, _cores() // workers))
    devices = torch.cuda.device_count() if workers > 1 and settings["device"] == "auto" else 0
    if devices > 1:
        settings["device"] = f"cuda:{number % devices}"
    return settings


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: those that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
