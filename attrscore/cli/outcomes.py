"""How commands end: exit codes, what a job came to, and errors in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attrscore.cli.hydra_app import configuration
from attrscore.core.registry import REGISTRIES, conf_dir
from attrscore.errors import AttrscoreError, ConfigError, LayerError, did_you_mean

OK, FAILED, USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all done; something raised; the command is wrong; done, but something was left out;
stopped by the user."""

MEANING = {
    OK: "done",
    FAILED: "failed",
    USAGE: "could not start",
    INCOMPLETE: "left something out",
}


def worst(codes: Iterable[int], /) -> int:
    """The exit code of several: what failed before what could not start, then what left out.

    >>> worst([0, 3, 1, 3]), worst([3, 0]), worst([])
    (1, 3, 0)
    """
    return min((code for code in codes if code), default=OK)


@dataclass(frozen=True)
class Ended:
    """What a job came to, in this process or another."""

    code: int
    why: str = ""
    overrides: Sequence[str] = ()
    how: str = ""
    """In a word or two, where it is more than the code says: ``cancelled``, ``out of memory``."""
    objective: float | None = None
    """What an optimising sweeper gets, where ``objective=`` names a column."""

    @property
    def state(self) -> str:
        """What became of it, in a word or two."""
        return self.how or MEANING.get(self.code, str(self.code))

    @classmethod
    def known(cls, state: str, overrides: Sequence[str], why: str = "") -> Ended:
        """Of a job that is known by its :attr:`state`; ``why`` it is not done."""
        code = next((code for code, meant in MEANING.items() if meant == state), None)
        if code is None:
            return cls(FAILED, why, overrides, state)
        return cls(code, "" if code in (OK, INCOMPLETE) else why, overrides)


def say(error: BaseException, arguments: Sequence[str]) -> int:
    """Say what is wrong in a sentence; the exit code."""
    from attrscore.cli.output import say_error

    say_error(sentence(error, arguments), getattr(error, "__notes__", ()))
    ours = isinstance(error, AttrscoreError) or of_system(error)
    asked = isinstance(error, ConfigError | LayerError | NotADirectoryError) or not ours
    return USAGE if asked else FAILED


def of_system(error: BaseException) -> bool:
    """Whether the system refused a file: it is full, somebody else's, or of another kind."""
    ours = isinstance(error, AttrscoreError)
    return isinstance(error, OSError) and not ours and error.filename is not None


def sentence(error: BaseException, arguments: Sequence[str]) -> str:
    """The message, with a suggestion where a group choice or a setting is misspelt."""
    if of_system(error):
        return f"{error.filename}: {error.strerror}."  # type: ignore[attr-defined]  # an OSError
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, given = str(error.missing_cfg_file).rpartition("/")
        if (group, given) == ("hydra/launcher", "slurm"):
            return "hydra/launcher=slurm needs an extra: pip install 'attrscore[submitit]'."
        return f"No {group} is called {given!r}. {did_you_mean(given, error.options)}"
    lost = re.search(r"Could not load '(\w+)/([^']+)'", text)
    if lost and (conf_dir() / lost[1]).is_dir():
        known = [path.stem for path in (conf_dir() / lost[1]).glob("*.yaml")]
        known += REGISTRIES[lost[1]].strangers() if lost[1] in REGISTRIES else []
        return f"No {lost[1]} is called {lost[2]!r}. {did_you_mean(lost[2], known)}"
    if isinstance(error, OverrideParseException) and re.fullmatch(r"[\w./-]+", error.override):
        return (
            f"{error.override!r} is no setting; settings are given as name=value. See: attrscore "
            "--help"
        )
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read ({str(error.message).splitlines()[0]}). A value "
            "with brackets, commas, equals signs or colons needs quotes of its own within those of "
            "the shell: "
            "\"dataset.images='fields/*_[0-3].tif'\"."
        )
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _no_setting(unknown[1], arguments)
    return text.replace("\n", " ")


def _no_setting(path: str, arguments: Sequence[str]) -> str:
    parent, _, given = path.rpartition(".")
    groups = [  # choices, not sweeps, and without the one that is wrong
        a for a in arguments if re.match(r"\w+=(\w+$|\[)", a) and not a.startswith(f"{path}=")
    ]
    try:
        whole = configuration(groups)
        known = list(OmegaConf.select(whole, parent) if parent else whole)
    except (HydraException, OmegaConfBaseException, TypeError):
        return f"There is no setting {path!r}. See: attrscore --help"
    where = f" in {parent}" if parent else ""
    return f"There is no setting {given!r}{where}. {did_you_mean(given, known)}"
