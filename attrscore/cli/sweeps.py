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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from attrscore.cli.hydra_app import checked_settings, register_installed, unresolved
from attrscore.cli.outcomes import FAILED, INCOMPLETE, OK, USAGE, Ended, worst
from attrscore.core.code import environment
from attrscore.core.registry import REGISTRIES, conf_dir, is_one_plugin
from attrscore.errors import AttrscoreError, StoreError, stoppable

LISTED = ("method", "scorer", "layers")
"""Settings that may hold several values, which one job then computes together."""

WORKERS = "ATTRSCORE_WORKERS"
"""Environment variable: how many processes of a sweep work on this machine at once."""


def run(
    arguments: Sequence[str],
    job: Callable[[DictConfig], Ended],
    /,
    *,
    record: Literal["kept", "none"] = "none",
) -> int:
    """Run ``job`` for each configuration that the arguments give, through Hydra; the exit code.

    ``record="kept"``: the results folder says what a sweep asked for, and what became of its jobs
    (:mod:`attrscore.store.sweep_jobs`).

    Where a fused job cannot start, its combinations run one by one, so that a wrong layer costs
    its own combination alone.
    """
    ended, sweep = _through_hydra(arguments, job, Sweep(record=record))
    wrong = [each for each in ended if each.code == USAGE]
    if wrong and sweep.fused:
        from attrscore.cli.output import stderr

        stderr().print(f"{len(wrong)} jobs could not start: their combinations run one by one.")
        ended = [each for each in ended if each not in wrong]
        more, sweep = _through_hydra(arguments, job, Sweep(apart=wrong, record=record))
        ended += more
    if sweep.folder is not None:
        _say(ended)
    return worst(each.code for each in ended)


def _through_hydra(
    arguments: Sequence[str], job: Callable[[DictConfig], Ended], sweep: Sweep
) -> tuple[list[Ended], Sweep]:
    here: list[Ended] = []

    def one(cfg: DictConfig) -> Ended | float:
        overrides = tuple(unresolved(HydraConfig.get().overrides.task))
        with stoppable(), _recorded(_recording(cfg, sweep), overrides) as said:
            said.append(replace(job(cfg), overrides=overrides))
        here.append(said[0])  # in another process, to a copy
        return said[0] if said[0].objective is None else said[0].objective

    register_installed(arguments)
    argv = sys.argv
    sys.argv = ["attrscore", *arguments]
    running = _SWEEP.set(sweep)
    error: Exception | None = None
    try:
        # Hydra then raises, and main() makes a sentence of it
        with environment("HYDRA_FULL_ERROR", "1"), environment(WORKERS, None):
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(one)()
    except (AttrscoreError, HydraException, OmegaConfBaseException):
        raise
    except Exception as raised:
        if sweep.folder is None:
            raise
        error = raised  # a worker died, its launcher gave up: the jobs that ended are known
    finally:
        sweep.over.close()
        sys.argv = argv
        _SWEEP.reset(running)
    return (here if sweep.folder is None else sweep.ended(error)), sweep


@contextmanager
def _recorded(results: Path | None, overrides: Sequence[str]) -> Iterator[list[Ended]]:
    """Keep what becomes of a job, which is added to the list that the block gets."""
    said: list[Ended] = []
    own = HydraConfig.get()
    path = _path(own.sweep.dir, own.job.num) if own.mode is RunMode.MULTIRUN else None
    if path is not None:
        path.unlink(missing_ok=True)  # of a run that a scheduler stopped, and has begun again
    try:
        if results is None:
            yield said
        else:
            from attrscore.store import sweep_jobs  # here and below: --help needs no h5py

            with sweep_jobs.while_running(results, overrides):
                yield said
                with suppress(StoreError):  # a full disk: the job has said so
                    sweep_jobs.write_state(results, overrides, said[0].state)
    except BaseException as error:
        said = [Ended(FAILED, str(error) or type(error).__name__, overrides, "stopped")]
        raise
    finally:
        if path is not None:
            with suppress(OSError):  # a full disk: it ended without a word
                _write(path, said[0])


def _recording(cfg: DictConfig, sweep: Sweep) -> Path | None:
    """The results folder that keeps what becomes of this job, which some sweep asked for."""
    if sweep.listed or sweep.record == "none":
        return sweep.results if sweep.listed else None
    results = Path(str(OmegaConf.select(cfg, "results") or ""))
    return results if (results / "sweeps").is_dir() else None


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
    record: Literal["kept", "none"] = "none"
    results: Path = Path()
    """The folder that keeps what was asked for."""
    listed: Path | None = None
    """Where it says so."""
    over: ExitStack = field(default_factory=ExitStack)
    """What is done when the jobs have ended."""

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, which do not end it."""
        return {**self.__dict__, "over": ExitStack()}

    def start(self, config: DictConfig) -> None:
        """Rewrite the command line that Hydra's sweeper is about to read."""
        self.folder = Path(config.hydra.sweep.dir).resolve()
        with read_write(config), open_dict(config):  # the jobs write there, whatever they sweep
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={_quoted(str(self.folder))}")
        sweeper = config.hydra.sweeper
        if not str(sweeper["_target_"]).endswith(".BasicSweeper"):
            if config.get("objective") and "direction" in sweeper:
                with read_write(config), open_dict(config):
                    sweeper.direction = _direction(str(config.objective))
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
        self.jobs = combinations(list(lines.values()), parser)
        workers = workers_of(config.hydra.launcher, len(self.jobs), sweeper.max_batch_size)
        if workers > 1:
            os.environ[WORKERS] = str(workers)
        if self.record == "kept":
            self.results = Path(str(config.results)).resolve()
            from attrscore.store import sweep_jobs

            with suppress(StoreError):  # the jobs meet the same, and say it
                self.listed = sweep_jobs.list_jobs(self.results, self.jobs)
                self.over.enter_context(sweep_jobs.heartbeat(self.listed))

    def ended(self, error: Exception | None) -> list[Ended]:
        """What each job came to, in order; those that did not say it were stopped by ``error``."""
        found = {}
        for path in (self.folder or Path()).glob("ended-*.json"):
            found[int(path.stem.partition("-")[2])] = Ended(**json.loads(path.read_bytes()))
            path.unlink()
        why = f"{type(error).__name__}: {error}" if error else "It ended without a word."
        for number in range(len(self.jobs)):
            if number not in found:
                found[number] = self.lost(number, "failed", why)
        if self.listed and any(each.code == USAGE for each in found.values()):
            self.listed.unlink(missing_ok=True)  # a mistake in the command leaves nothing to do
        if error and not self.jobs:
            found[len(found)] = Ended(FAILED, why)
        return [found[number] for number in sorted(found)]

    def lost(self, number: int, how: str, why: str) -> Ended:
        """What a job came to that left no word, which is kept."""
        overrides = self.jobs[number] if self.jobs else ()
        if self.listed:
            from attrscore.store import sweep_jobs

            with suppress(StoreError):
                sweep_jobs.write_state(self.results, overrides, how)
        return Ended.known(how, overrides, why)


def _direction(objective: str) -> str:
    """Which way an objective is better, as Optuna says it."""
    from attrscore.core.readings import readings_of
    from attrscore.core.registry import SCORERS

    scorer, _, end = objective.partition(".")
    reading = readings_of(SCORERS.load(scorer)).get(end or "score", {})
    return "minimize" if reading.get("better") == "lower" else "maximize"


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


def combinations(
    overrides: Sequence[str], parser: OverridesParser | None = None, /
) -> list[tuple[str, ...]]:
    """The overrides of each job of a sweep, in the order in which Hydra runs them.

    >>> combinations(["guide=none,swap", "seed=1"])
    [('guide=none', 'seed=1'), ('guide=swap', 'seed=1')]
    """
    parser = parser or OverridesParser.create()
    return list(itertools.product(*map(_texts, parser.parse_overrides(list(overrides)))))


def _texts(override: Override) -> list[str]:
    """Key and value, for each value: as Hydra's sweeper writes them, by which a job is known."""
    if not override.is_sweep_override():
        return [f"{override.get_key_element()}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={text}" for text in override.sweep_string_iterator()]


def _path(folder: str | Path, number: int) -> Path:
    """Where a job says what it came to, for the process that started the sweep."""
    return Path(folder, f"ended-{number}.json")


def _write(path: Path, ended: Ended) -> None:
    path.write_text(json.dumps(asdict(ended)), encoding="ascii")


# What launchers ask of the sweep that they are started for, and say to it, by the number of a job


def unfinished(
    jobs: Mapping[int, Sequence[str]], loader: Any, config: DictConfig, /
) -> dict[int, list[str]]:
    """Those of these jobs, number -> overrides, of which the results do not hold all."""
    return {
        number: list(overrides)
        for number, overrides in jobs.items()
        if not _finished(number, loader, config, overrides)
    }


def _finished(number: int, loader: Any, config: DictConfig, overrides: Sequence[str]) -> bool:
    """Asked of those that ended well before.

    Their parts are built here, from the data as they are now.
    """
    sweep = _SWEEP.get()
    if sweep is None or sweep.folder is None or sweep.listed is None:
        return False
    from attrscore.store import sweep_jobs

    known = Ended.known(sweep_jobs.state_of(sweep.results, sweep.jobs[number]), sweep.jobs[number])
    if known.code in (OK, INCOMPLETE):
        from attrscore.jobs.run import is_finished

        with suppress(Exception):  # the job meets the same, and says it
            own = loader.load_sweep_config(config, list(overrides))
            with read_write(own), open_dict(own):
                del own["hydra"]
            if is_finished(checked_settings(own)):
                _write(_path(sweep.folder, number), known)
                return True
    sweep_jobs.forget_state(sweep.results, sweep.jobs[number])
    return False


def in_queue() -> dict[int, str]:
    """Number of each job -> what the scheduler called it when it was last submitted."""
    sweep = _SWEEP.get()
    if sweep is None or sweep.listed is None:
        return {}
    from attrscore.store import sweep_jobs

    return sweep_jobs.in_queue(sweep.listed)


def queued(names: Mapping[int, str], /) -> None:
    """A scheduler has these jobs now: number -> what it calls them."""
    sweep = _SWEEP.get()
    if sweep is not None and sweep.listed is not None:
        from attrscore.store import sweep_jobs

        with suppress(StoreError):
            sweep_jobs.list_jobs(sweep.results, sweep.jobs, queue=names)


def over(number: int, how: str, why: str = "", /) -> str:
    """A job has ended: what it came to, as it said itself; else ``how``, and ``why``."""
    sweep = _SWEEP.get()
    if sweep is None or sweep.folder is None:
        return how
    path, ended = _path(sweep.folder, number), None
    if path.exists():
        ended = Ended(**json.loads(path.read_bytes()))
    elif sweep.listed is not None:
        from attrscore.store import sweep_jobs

        state = sweep_jobs.state_of(sweep.results, sweep.jobs[number])
        if state != "absent":  # said to the command that submitted it
            ended = Ended.known(state, sweep.jobs[number], why)
    # what was stopped may have been queued again, and have ended otherwise
    if ended is None or (ended.how == "stopped" and how != "failed"):
        ended = sweep.lost(number, how, why)
    _write(path, ended)
    return ended.state


def _say(ended: Sequence[Ended]) -> None:
    """Say how many jobs of a sweep went wrong, and why.

    They said so themselves, but some in processes that write to a log of their own.
    """
    if not any(each.code for each in ended):
        return
    from attrscore.cli.output import say_error, stderr

    states = Counter(each.state for each in sorted(ended, key=lambda each: each.code != OK))
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    stderr().print(f"of {len(ended)} jobs: {counts}", soft_wrap=True)
    for each in ended:
        if each.why:
            say_error(each.why, [" ".join(each.overrides)])


# One machine for several processes


def workers_of(launcher: Mapping[str, Any], jobs: int, at_once: int | None = None, /) -> int:
    """How many processes a launcher starts on this machine for so many jobs.

    joblib has ``n_jobs``, dask ``n_workers``; submitit starts all jobs on this machine at once.
    What runs elsewhere gets cores and devices from its scheduler.
    """
    target = str(launcher.get("_target_", ""))
    jobs = min(jobs, at_once or jobs)
    if target.endswith("JoblibLauncher"):
        from joblib import effective_n_jobs

        return min(jobs, int(effective_n_jobs(launcher["n_jobs"])))
    if target.endswith("DaskLauncher") and launcher["scheduler"] is None:
        return min(jobs, int(launcher["n_workers"]))
    return jobs if target.endswith("LocalLauncher") else 1


def share(settings: Mapping[str, Any], number: int, /) -> dict[str, Any]:
    """The settings of job ``number`` of a sweep, with its share of the machine.

    Where ``threads`` is null, torch gets the cores divided by the workers, but no more than it has;
    in a job of Slurm, the cores are those that were asked for.
    Where ``device`` is auto and there are several, they are dealt round by the number.
    """
    import torch  # here: what starts a sweep needs none

    beside = at_once()
    settings = dict(settings)
    most = max(1, cores() // beside)
    if settings["threads"] is None and (beside > 1 or most < torch.get_num_threads()):
        settings["threads"] = min(torch.get_num_threads(), most)
    devices = torch.cuda.device_count() if beside > 1 and settings["device"] == "auto" else 0
    if devices > 1:
        settings["device"] = f"cuda:{number % devices}"
    return settings


def at_once() -> int:
    """How many jobs of the sweep run on this machine at once."""
    return int(os.environ.get(WORKERS, "1"))


def cores() -> int:
    """Those that this process may use: of its affinity mask, and of its job of Slurm."""
    known = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        known = len(os.sched_getaffinity(0))
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(known, int(given)) if given.isdigit() and int(given) else known
