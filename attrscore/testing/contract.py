"""A check: asked of a plugin in 2D and 3D, answered in a sentence that says what and where."""

from __future__ import annotations

import pickle
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from attrscore.engine.attribution import sentence
from attrscore.errors import AttrscoreError, UnsupportedError, preview
from attrscore.testing.samples import net


class NotConforming(AttrscoreError, AssertionError):  # noqa: N818  # a finding about a plugin
    """What a plugin does not hold, and where; pytest shows it as a failed assertion."""


@dataclass(frozen=True)
class Subject:
    """A plugin that is tried."""

    plugin: Any
    """The value: options filled in."""
    name: str
    dimensions: int
    model: Callable[[int], nn.Module] = net
    """What methods and scorers are tried on, by dimensions."""


@dataclass(frozen=True)
class Check:
    """One part of the contract of a kind; call it with a plugin to ask it."""

    kind: str
    name: str
    """In words, as it is shown."""
    asked: Callable[[Subject], None]
    once: bool = False
    """Whether the dimensions play no part."""

    def __str__(self) -> str:
        return self.name.replace(" ", "_")

    def __call__(
        self,
        plugin: Any,
        /,
        *,
        name: str = "",
        dimensions: int = 2,
        model: Callable[[int], nn.Module] = net,
    ) -> None:
        """Ask a plugin value.

        :raises NotConforming: it does not hold; the message says what and where.
        :raises UnsupportedError: the plugin refuses such inputs, with its reason.
        """
        name = name or _called(plugin)
        at = "" if self.once else f" in {dimensions}D"
        try:
            self.asked(Subject(plugin, name, dimensions, model))
        except UnsupportedError:
            raise
        except NotConforming as found:
            raise NotConforming(f"{self.kind} '{name}'{at}, {self.name}: {found}") from found
        except Exception as error:
            raise NotConforming(
                f"{self.kind} '{name}'{at}, {self.name}: it raised {sentence(error)}"
                f"{_place(error, plugin)}"
            ) from error


@dataclass(frozen=True)
class Outcome:
    """How a plugin answered a check."""

    check: str
    dimensions: int | None
    """None where they play no part."""
    state: Literal["holds", "broken", "refused"]
    message: str = ""
    """What is broken, or why the plugin refuses to be asked."""


def ask(checks: Sequence[Check], plugin: Any, /, **options: Any) -> list[Outcome]:
    """Every check, in 2D and 3D; a kind of input that a plugin refuses throughout is no fault.

    What it refuses in 2D and in 3D alike is broken.
    """
    found: list[Outcome] = []
    for check in checks:
        for dimensions in (None,) if check.once else (2, 3):
            state: Literal["holds", "broken", "refused"] = "holds"
            message = ""
            try:
                check(plugin, dimensions=dimensions or 2, **options)
            except UnsupportedError as error:
                state, message = "refused", sentence(error)
            except NotConforming as error:
                state, message = "broken", str(error)
            found.append(Outcome(check.name, dimensions, state, message))
    first = [each for each in found if each.check == checks[0].name]
    if all(each.state == "refused" for each in first):
        found.append(
            Outcome("is of use", None, "broken", f"It refuses 2D and 3D: {first[0].message}")
        )
    return found


def require(holds: object, otherwise: str, /) -> None:
    """Go on where it holds.

    :raises NotConforming: with this sentence.
    """
    if not holds:
        raise NotConforming(otherwise)


def nearly(
    found: Any, expected: Any, what: str, otherwise: str, /, *, within: float = 1e-6
) -> None:
    """Whether numbers are the same, NaN equal to NaN.

    :raises NotConforming: ``what`` differs, where and by how much, and ``otherwise``.
    """
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    require(
        found.shape == expected.shape,
        f"{what} has the shape {found.shape} and then {expected.shape}. {otherwise}",
    )
    with np.errstate(invalid="ignore"):
        same = (np.abs(found - expected) <= within * (1 + np.abs(expected))) | (found == expected)
    same |= np.isnan(found) & np.isnan(expected)
    if not same.all():
        at = tuple(int(axis[0]) for axis in np.nonzero(~same))
        raise NotConforming(
            f"{what} is {expected[at]:.6g} and then {found[at]:.6g} at {list(at)}. {otherwise}"
        )


def pickles(subject: Subject) -> None:
    """Launchers send plugins to other processes."""
    try:
        again = pickle.loads(pickle.dumps(subject.plugin))  # noqa: S301  # what we pickled ourselves
    except Exception as error:
        raise NotConforming(
            f"it cannot be pickled ({sentence(error)}), so no launcher can send it to another "
            "process. Define it at the top level of a module, and keep no lambda, file or hook in "
            "it."
        ) from error
    require(
        type(again) is type(subject.plugin),
        f"pickled and read back it is a {type(again).__name__}.",
    )


@contextmanager
def random_states_kept() -> Iterator[None]:
    """A block after which the global generators must be where they were.

    :raises NotConforming: one has moved.
    """
    before = _drawn()
    yield
    for name, state in _drawn().items():
        require(
            state == before[name],
            f"it moved the global random state of {name}. Draw from a generator of its own with a "
            "fixed seed: torch.Generator().manual_seed(seed).",
        )


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """A block after which a model and the random states must be what they were before.

    :raises NotConforming: what was changed, by name.
    """
    before = _state_of(model)
    with random_states_kept():
        yield
    after = _state_of(model)
    for what, kept in before.items():
        changed = [name for name in kept if not _equal(kept[name], after[what].get(name))]
        changed += [name for name in after[what] if name not in kept]
        shown = preview([name or "the model itself" for name in changed], most=3)
        require(not changed, f"it changed the {what} of {shown}. {_HOW[what]}")


_HOW: Mapping[str, str] = {
    "weights": "Work on copy.deepcopy(model), or put them back in finally.",
    "gradients": "Use torch.autograd.grad, which leaves .grad alone, not backward().",
    "requires_grad": "Put it back in finally.",
    "training mode": "Put the flag of every module back in finally.",
    "in-place flags": "Put them back in finally.",
    "hooks": "Remove them in finally: handle.remove().",
}


def _drawn() -> dict[str, Any]:
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # what plugins may have moved
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(numpy["state"]),
        "random": random.getstate(),
    }


def _state_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in parameters.items()},
        "requires_grad": {name: value.requires_grad for name, value in parameters.items()},
        "training mode": {name: module.training for name, module in modules.items()},
        "in-place flags": {n: getattr(module, "inplace", None) for n, module in modules.items()},
        "hooks": {n: [len(getattr(module, h)) for h in hooks] for n, module in modules.items()},
    }


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    return bool(one == two)


def _called(plugin: Any) -> str:
    behind = getattr(plugin, "function", plugin)
    return str(getattr(behind, "__name__", type(behind).__name__))


def _place(error: BaseException, plugin: Any) -> str:
    """Where in the plugin's own code it was raised."""
    behind = getattr(plugin, "function", plugin)
    module = getattr(behind, "__module__", None)
    frames = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") == module
    ]
    return frames[-1] if frames else ""
