"""What attention methods cost at all blocks of a ViT-S, beside one forward and one backward pass.

    python benchmarks/attention.py [--quick]

Multiples of the floor, in one run, contestants taking turns. Asserts nothing; ``README.md`` says
what the rows are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from cost_of_layers import ours
from models import CLASSES, batch, floor
from timing import begin, measure, parser, table
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import attrscore
from attrscore.core.passes import Pass

METHODS = ("attention", "attention_rollout", "grad_attention", "legrad")
LAYERS = tuple(f"model.vit.layers.{number}" for number in range(12))


class Scores(nn.Module):
    """transformers' ViT of ViT-S size, its scores alone; its attention is torch's fused one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=size,
            num_channels=5,
            num_labels=CLASSES,
        )
        self.model = ViTForImageClassification(config)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs).logits


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser(__doc__).parse_args(arguments)
    begin(given)
    size, cells = (64, 2) if given.quick else (224, 4)
    torch.manual_seed(0)
    model = Scores(size).eval().to(given.device).requires_grad_(requires_grad=False)
    inputs = torch.rand((cells, 5, size, size), device=given.device)
    mask = torch.zeros((cells, size, size), dtype=torch.bool, device=given.device)
    mask[:, size // 4 : size // 2, size // 4 : size // 2] = True
    modules = {name: model.get_submodule(name) for name in LAYERS}
    target = attrscore.TARGETS.build("predicted")

    def maps(*names: str) -> Callable[[], object]:
        built = [attrscore.METHODS.build(name) for name in names]

        def once() -> object:
            run = Pass(model, batch(inputs, mask), target, layers, keep_attention=True)
            return run.attention, [method(run) for method in built]

        return once

    layers = Pass(model, batch(inputs, mask), target, modules).layers  # a dry run, once a job
    measured = measure(
        {
            "floor": floor(model, LAYERS[0], inputs),
            "attrscore: the pass and its attention": maps(),
            **{f"attrscore: maps of {name}": maps(name) for name in METHODS},
            "attrscore: maps of the four methods": maps(*METHODS),
            "attrscore.run, the four methods": ours(
                model, inputs, mask, layers=LAYERS, methods=list(METHODS)
            ),
        },
        given.repetitions or (1 if given.quick else 5),
        device=given.device,
    )
    wanted = {"attrscore: the pass and its attention": "<= 1.15"}
    table(
        ("12 blocks of a ViT-S", "seconds", "x floor", "to reach"),
        [
            (n, f"{taken:.3f}", f"{ratio:.2f}", wanted.get(n))
            for n, (taken, ratio) in measured.items()
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
