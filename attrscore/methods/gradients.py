"""Gradients with respect to the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from attrscore.core.contracts import INPUT, Maps
from attrscore.core.passes import Pass
from attrscore.core.registry import METHODS
from attrscore.errors import choose

__all__ = ["InputXGradient", "Saliency"]


@METHODS.register("saliency", aliases=("vanilla_gradient",))
@dataclass(frozen=True)
class Saliency:
    """The gradient of the explained score with respect to each pixel and channel.

    ``values="absolute"`` is saliency as defined, and what Captum's ``Saliency`` returns;
    ``"signed"`` is the plain gradient. Costs one forward and one backward pass, shared with the
    other gradient methods. Simonyan et al., ICLR workshops 2014.
    """

    explains: ClassVar[str] = INPUT
    needs_input_gradient: ClassVar[bool] = True
    values: Literal["absolute", "signed"] = "absolute"

    def __post_init__(self) -> None:
        choose(self.values, ("absolute", "signed"), option="values")

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        gradient = run.input_gradient
        return {INPUT: gradient.abs() if self.values == "absolute" else gradient}


@METHODS.register("input_x_gradient")
@dataclass(frozen=True)
class InputXGradient:
    """Each pixel times the gradient of the explained score with respect to it, signed.

    A black pixel gets nothing, whatever the network makes of it. Costs no more than ``saliency``,
    with which it shares its pass. Shrikumar et al., arXiv 1605.01713 (2016).
    """

    explains: ClassVar[str] = INPUT
    needs_input_gradient: ClassVar[bool] = True

    def __call__(self, run: Pass, /) -> Maps:
        """INPUT -> (N, C, *S)."""
        return {INPUT: run.batch.inputs * run.input_gradient}
