"""What every registered target must hold; a new plugin joins by existing."""

from __future__ import annotations

import pytest

from attrscore.core.registry import TARGETS
from attrscore.testing import checks

# Options for those that cannot be built without, and further settings.
NEED = {
    "contrast": {"first": [1.0, 1.0, 0.0], "second": [1.0, -1.0, 0.0]},
    "cosine": {"reference": [1.0, 0.0, 2.0]},
    "embedding:several": {"index": [0, 2]},
    "label:logprob": {"scalar": "logprob"},
    "predicted:margin": {"scalar": "margin"},
    "probe": {"direction": [1.0, 0.0, 2.0]},
}
NAMES = [e.name for e in TARGETS.entries() if e.alias_of is None]
CASES = [
    pytest.param(name, check, d, id=f"{name}-{check}-{d}")
    for name in dict.fromkeys((*NAMES, *NEED))
    for check in checks("target")
    for d in ((2,) if check.once else (2, 3))
]


@pytest.mark.parametrize(("name", "check", "dimensions"), CASES)
def test_contract(name, check, dimensions):
    target = TARGETS.build(name.partition(":")[0], **NEED.get(name, {}))
    check(target, name=name, dimensions=dimensions)
