"""Words that the shell may offer, and the few lines that make a shell ask for them."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attrscore.cli.hydra_app import configuration
from attrscore.core.registry import REGISTRIES, conf_dir
from attrscore.errors import AttrscoreError

__all__ = ["SCRIPTS", "candidates"]

SCRIPTS: Mapping[str, str] = {
    "bash": r"""# eval "$(attrscore completion bash)", in ~/.bashrc
_attrscore() {
  local IFS=$'\n' word
  COMPREPLY=()
  for word in $(attrscore completion words "${COMP_LINE:0:COMP_POINT}" 2>/dev/null); do
    [[ $word == *[=.,\[/] ]] || word="$word "
    COMPREPLY+=("$word")
  done
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o default -o nospace -F _attrscore attrscore
""",
    "zsh": r"""# eval "$(attrscore completion zsh)", in ~/.zshrc after compinit
_attrscore() {
  local -a found
  found=(${(f)"$(attrscore completion words "${BUFFER[1,CURSOR]}" 2>/dev/null)"})
  if (( $#found )); then compadd -Q -S '' -- $found; else _files; fi
}
compdef _attrscore attrscore
""",
    "fish": r"""# attrscore completion fish | source, in ~/.config/fish/config.fish
complete -c attrscore -a '(attrscore completion words (commandline -cp) 2>/dev/null)'
""",
}
"""What each shell is told."""

_OVERRIDES = ("inspect", "plan", "train")
"""Verbs that take settings."""


def candidates(line: str, verbs: Mapping[str, Callable[[Sequence[str]], int]], /) -> list[str]:
    """What the last word of a command line may become; empty where files are asked for."""
    words = line.split(" ")[1:]  # the last may be empty: a new word begins
    before, word = [each for each in words[:-1] if each], (words or [""])[-1].lstrip("'\"")
    verb = before[0] if before and before[0] in verbs else ""
    if not before:
        found = [*verbs, *_settings(word, [])]
    elif verb and verb not in _OVERRIDES:
        found = _of_verb(verb, before[1:], verbs)
    else:
        found = [*_settings(word, before[1:] if verb else before), "--multirun", "--help", "--json"]
    return sorted({each for each in found if each.startswith(word) and each not in before})


def _of_verb(
    verb: str, before: Sequence[str], verbs: Mapping[str, Callable[[Sequence[str]], int]]
) -> list[str]:
    """The options that its help names; of ``plugins`` also what it takes."""
    if verb == "plugins" and before[:1] == ["new"]:
        return list(REGISTRIES) if len(before) == 1 else ["--output"]
    if verb == "plugins":
        names = [name for kind, found in _groups().items() if kind in REGISTRIES for name in found]
        return [*names, "--json", *(["check", "list", "new"] if not before else ["--kind"])]
    if verb == "completion":
        return list(SCRIPTS)
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        verbs[verb](["--help"])
    return re.findall(r"(?<![\w-])--[\w-]+", told.getvalue())


def _settings(word: str, before: Sequence[str]) -> list[str]:
    """Overrides: names of settings, and the choices of groups, also in a list."""
    name, equals, value = word.partition("=")
    if not equals:
        return [*(f"{group}=" for group in _groups()), *_names(word, before)]
    choices = _groups().get(name.lstrip("+~"), ())
    begun = name + "=" + value[: max(value.rfind(mark) for mark in ",[") + 1]
    return [begun + choice for choice in choices]


def _groups() -> dict[str, list[str]]:
    """Group -> its choices: ours, and those of plugins."""
    found = {
        folder.name: [path.stem for path in folder.glob("*.yaml")]
        for folder in conf_dir().iterdir()
        if folder.is_dir()
    }
    for kind, registry in REGISTRIES.items():
        found[kind] = sorted({*found[kind], *registry.strangers()})
    Plugins.instance()  # which registers launchers and sweepers
    for group in ("hydra/launcher", "hydra/sweeper"):
        names = ConfigStore.instance().list(group)
        found[group] = [name.removesuffix(".yaml") for name in names]
    return found


def _names(word: str, before: Iterable[str]) -> list[str]:
    """Settings below what is typed so far, under the choices that were made before."""
    parent = word.rpartition(".")[0]
    chosen = [each for each in before if re.match(r"[\w/]+=[^,]*$", each)]
    for given in (chosen, []):  # a choice that cannot be composed yet
        try:
            whole = configuration(given)
            node = OmegaConf.select(whole, parent) if parent else whole
        except (AttrscoreError, HydraException, OmegaConfBaseException):
            continue
        if not isinstance(node, DictConfig):
            return []
        prefix = f"{parent}." if parent else ""
        return [
            f"{prefix}{name!s}{'.' if OmegaConf.is_dict(node._get_node(name)) else '='}"
            for name in node
        ]
    return []
