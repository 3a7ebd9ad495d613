"""Fusing keeps the product exact: no condition is added and none is lost."""

from __future__ import annotations

import itertools
from collections import Counter

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from attrscore.cli.sweeps import fused

NAMES = {
    "method": ("grad_cam", "saliency", "hires_cam"),
    "scorer": ("grad_camo", "entropy"),
    "layers": ("features.0", "features.1", "last_conv"),
}
PARSER = OverridesParser.create()


@st.composite
def sweeps(draw):
    swept = {"seed": draw(st.sampled_from(["0", "0,1"]))}
    for key, names in NAMES.items():
        entry = st.lists(st.sampled_from(names), min_size=1, unique=True)
        values = draw(st.lists(entry, min_size=1, max_size=3))
        swept[key] = ",".join(f"[{','.join(value)}]" for value in values)
    # options of plugins that every combination has: the others Hydra would refuse
    for kind in ("method", "scorer"):
        for name in NAMES[kind]:
            if all(name in each for each in swept[kind].split("],")) and draw(st.booleans()):
                swept[f"{kind}.{name}.n"] = draw(st.sampled_from(["7", "8,9"]))
    return [PARSER.parse_override(f"{key}={values}") for key, values in swept.items()]


def jobs(axes):
    """Every combination, as Hydra's sweeper makes them."""
    values = [
        [(axis.get_key_element(), each) for each in axis.sweep_iterator()]
        if axis.is_sweep_override()
        else [(axis.get_key_element(), axis.value())]
        for axis in axes
    ]
    return [dict(job) for job in itertools.product(*values)]


def conditions(job):
    """What a job computes: the rest, a method with its options, a layer, a scorer with its own."""
    options = {key: value for key, value in job.items() if key.endswith(".n")}
    plugins = {
        kind: [(name, options.get(f"{kind}.{name}.n")) for name in job[kind]]
        for kind in ("method", "scorer")
    }
    every = itertools.product(plugins["method"], job["layers"], plugins["scorer"])
    return [(job["seed"], *each) for each in every]


@given(axes=sweeps())
def test_fused_jobs_compute_what_the_combinations_do(axes):
    together = [
        PARSER.parse_override(joined) if (joined := fused(axis, PARSER)) else axis for axis in axes
    ]
    plain = {each for job in jobs(axes) for each in conditions(job)}
    counted = Counter(each for job in jobs(together) for each in conditions(job))
    assert set(counted) == plain
    if not any(axis.get_key_element().endswith(".n") for axis in axes if axis.is_sweep_override()):
        assert set(counted.values()) == {1}
