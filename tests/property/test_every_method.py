"""What every registered method must hold, in 2D and 3D; a new plugin joins by existing.

The checks are those of the conformance kit, which a stranger's plugin is asked too.
"""

from __future__ import annotations

import copy
from functools import partial

import pytest
from nets import attending, net

from attrscore.core.registry import METHODS
from attrscore.testing import checks

# Options for those that cannot be built without, and further algorithms of Captum.
NEED = {
    "captum:LayerConductance": {"algorithm": "LayerConductance"},
    "captum:Occlusion": {
        "algorithm": "Occlusion",
        "options": {"sliding_window_shapes": [1, 3, 3], "strides": [1, 3, 3]},
    },
    "captum:GradientShap": {
        "algorithm": "GradientShap",
        "options": {"n_samples": 3, "stdevs": 0.1, "baselines": 0.0},
    },
    "captum:InputXGradient": {"algorithm": "InputXGradient"},
    "captum:DeepLift": {"algorithm": "DeepLift"},
    # The defaults of these are meant for crops of real size.
    "occlusion": {"window": 3, "stride": 2},
    "feature_ablation": {"size": 4},
    "kernel_shap": {"size": 5, "samples": 20},
    "feature_ablation:slic": {"features": "slic", "segments": 6, "compactness": 10.0},
    "feature_ablation:instances": {"features": "instances", "spread": "value"},
    "kernel_shap:regions": {"features": "regions", "baseline": "mean"},
    "smooth_grad": {"samples": 3},
    "smooth_grad:layers": {"samples": 3, "method": "grad_cam", "kind": "vargrad"},
    "gradient_shap": {"samples": 5, "chunk": 3},
    "integrated_gradients": {"steps": 5, "chunk": 3, "baseline": "blurred", "sigma": 1.5},
    "layer_conductance": {"steps": 5},
    "guided_ig": {"steps": 6},
    "rise": {"samples": 12, "grid": 3, "chunk": 5},
    "rise:none": {"samples": 4, "grid": 2, "offset": "none", "baseline": "mean"},
    "deep_lift_shap": {"baselines": 2},
    "lrp:gamma": {"rule": "gamma"},
}
ONLY_MODULES = ("lrp", "layer_lrp")
NO_INPLACE = ("captum:DeepLift",)
NAMES = [e.name for e in METHODS.entries() if e.alias_of is None]
NAMES = [name for name in NAMES if name not in ("captum", "kept")]  # which need options
ALL = list(dict.fromkeys((*NAMES, *NEED)))
CASES = [
    pytest.param(name, check, d, id=f"{name}-{check}-{d}")
    for name in ALL
    for check in checks("method")
    for d in ((2,) if check.once else (2, 3))
    # Captum's GradientShap draws its noise for the whole batch at once.
    if (name, check.name) != ("captum:GradientShap", "a batch is its samples")
]


def build(name: str, dimensions: int):
    options = copy.deepcopy(NEED.get(name, {}))
    if dimensions == 3 and "sliding_window_shapes" in options.get("options", {}):
        options["options"] = {"sliding_window_shapes": [1, 3, 3, 3], "strides": [1, 3, 3, 3]}
    return METHODS.build(name.partition(":")[0], **options)


def network(name: str, dimensions: int, **options):
    if METHODS.load(name.partition(":")[0]).__module__ == "attrscore.methods.attention":
        return attending(dimensions, **options)
    return net(dimensions, pooled=name.partition(":")[0] in ONLY_MODULES, **options)


@pytest.mark.parametrize(("name", "check", "dimensions"), CASES)
def test_contract(name, check, dimensions):
    inplace = "left as found" in check.name and name not in NO_INPLACE
    check(
        build(name, dimensions),
        name=name,
        dimensions=dimensions,
        model=partial(network, name, inplace=inplace),
    )
