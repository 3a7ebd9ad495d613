"""A model with weights drawn anew: what its maps and scores show of the architecture alone.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity checks for saliency maps, NeurIPS 2018.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import nn

from attrscore.core.model import SealedModel, copied, unwrap
from attrscore.errors import ConfigError, UnsupportedError, choose, did_you_mean

Randomize = Literal["none", "last", "cascade", "all"]


def randomized(
    model: nn.Module, how: Randomize = "all", seed: int = 0, *, to: str | int | None = None
) -> nn.Module:
    """A copy of a model whose layers are initialised again; the model itself for ``none``.

    ``last`` is the last layer with parameters; ``cascade`` all from the output down to the layer
    ``to``, by its name, or by how many layers from the output; ``all`` every layer. Layers count in
    the order in which the model holds them, which is that of its summary.

    A layer draws as its own ``reset_parameters`` says, which also forgets running statistics.
    Parameters that this does not write (class tokens, layer scales, weight normalisation) are drawn
    from a normal distribution of their present mean and standard deviation. A layer's draw follows
    from ``seed`` and its name, so a cascade ends at ``all``. torch's random state is as it was.

    :raises ConfigError: a choice that does not exist, ``to`` without cascade or the reverse, or no
        such layer.
    :raises UnsupportedError: a model without parameters, or one that cannot be copied.
    """
    choose(how, ("none", "last", "cascade", "all"), option="randomize")
    if (how == "cascade") != (to is not None):
        raise ConfigError(
            f"randomize={how} with randomize_to={to}: a cascade needs randomize_to, a layer's name "
            "or a number of layers from the output, and the other choices do without."
        )
    if how == "none":
        return model
    if isinstance(model, SealedModel):
        raise UnsupportedError(
            f"randomize={how} needs layers that can be drawn anew, and the model is "
            f"{model.what}; give the nn.Module that it was made from."
        )
    try:
        again = copied(unwrap(model))
    except (RuntimeError, TypeError) as error:
        raise UnsupportedError(
            f"{type(model).__name__} cannot be copied: {str(error).splitlines()[0]}"
        ) from error
    layers = {
        name: module
        for name, module in again.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    if not layers:
        raise UnsupportedError(f"{type(again).__name__} has no parameter to draw anew.")
    names = list(layers)
    first = {"last": len(names) - 1, "all": 0}.get(how)
    for name in names[_position(names, to) if first is None else first :]:
        _draw(layers[name], seed, name)
    return again


def _position(names: list[str], to: str | int | None) -> int:
    """Where a cascade ends."""
    if isinstance(to, int):
        if not 1 <= to <= len(names):
            raise ConfigError(
                f"randomize_to={to}: the model has {len(names)} layers with parameters."
            )
        return len(names) - to
    for position, name in enumerate(names):
        if name == to or name.startswith(f"{to}."):
            return position
    raise ConfigError(f"randomize_to={to!r} has no parameters. {did_you_mean(to, names)}")


def _draw(module: nn.Module, seed: int, name: str) -> None:
    """Draw the parameters of one module, on the CPU whatever its device."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    own = list(module.parameters(recurse=False))
    where = own[0].device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # Not torch.manual_seed: it would also reseed the accelerators, which are not forked here.
        torch.default_generator.manual_seed(int.from_bytes(digest, "big"))
        module.to("cpu")
        before = [parameter._version for parameter in own]  # torch counts what is written in place
        if reset is not None:
            reset()
        for parameter, version in zip(own, before, strict=True):
            if parameter._version == version:
                spread = parameter.std(correction=0)
                parameter.copy_(parameter.mean() + spread * torch.randn(parameter.shape))
        module.to(where)
