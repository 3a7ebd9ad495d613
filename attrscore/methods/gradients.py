"""Gradients with respect to the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from attrscore.core import INPUT, Maps
from attrscore.errors import choose
from attrscore.passes import Pass
from attrscore.registry import METHODS

__all__ = ["Saliency"]


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
