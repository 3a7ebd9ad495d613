"""What every registered model must hold; a new plugin joins by existing."""

from __future__ import annotations

import pytest

from attrscore.registry import MODELS
from attrscore.testing import checks


def own(channels: int, classes: int, dimensions: int):
    """A user's network, of float32 and three channels."""
    from torch import nn

    return nn.Sequential(
        getattr(nn, f"Conv{dimensions}d")(channels, 4, 3),
        nn.ReLU(),
        getattr(nn, f"AdaptiveAvgPool{dimensions}d")(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


NEED = {
    "factory": {"target": f"{__name__}.own"},
    "monai_resnet": {"stem_stride": 2, "stem_kernel": 3},
}
# What takes seconds in 3D is asked there in tests/unit/test_models.py, by another test.
FLAT = ("monai_densenet", "monai_efficientnet")
NAMES = [e.name for e in MODELS.entries() if e.alias_of is None]
CASES = [
    pytest.param(name, check, d, id=f"{name}-{check}-{d}")
    for name in NAMES
    for check in checks("model")
    for d in ((2,) if check.once or name in FLAT else (2, 3))
]


@pytest.mark.parametrize(("name", "check", "dimensions"), CASES)
def test_contract(name, check, dimensions):
    check(MODELS.build(name, **NEED.get(name, {})), name=name, dimensions=dimensions)
