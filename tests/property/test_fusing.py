"""Fusing keeps the product exact: no condition is added, none is lost, none is computed twice."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from attrscore.cli.sweeps import Swept, combinations, fuse

NAMES = {"method": "abc", "scorer": "xy", "layers": "123"}


@st.composite
def sweeps(draw):
    swept = [Swept("seed", tuple(draw(st.sampled_from(["0", "01"]))))]
    for key, names in NAMES.items():
        entry = st.lists(st.sampled_from(names), min_size=1, unique=True)
        values = tuple(map(tuple, draw(st.lists(entry, min_size=1, max_size=3))))
        swept.append(Swept(key, tuple(f"[{','.join(v)}]" for v in values), values))
    # options of plugins that every combination has: the others Hydra would refuse
    for kind in ("method", "scorer"):
        (chosen,) = (each for each in swept if each.key == kind)
        for name in set.intersection(*map(set, chosen.entries)):
            if draw(st.booleans()):
                swept.append(Swept(f"{kind}.{name}.n", tuple(draw(st.sampled_from(["7", "89"])))))
    return swept


def conditions(job):
    """What a job computes: the rest, a method with its options, a layer, a scorer with its own."""
    said = dict(text.split("=") for text in job)
    lists = {key: said.pop(key)[1:-1].split(",") for key in NAMES}
    options = {key: said.pop(key) for key in list(said) if key.endswith(".n")}
    plugins = {
        kind: [(name, options.get(f"{kind}.{name}.n")) for name in lists[kind]]
        for kind in ("method", "scorer")
    }
    every = itertools.product(plugins["method"], lists["layers"], plugins["scorer"])
    return [(*said.items(), *each) for each in every]


@given(swept=sweeps())
def test_fused_jobs_compute_what_the_combinations_do_and_each_once(swept):
    fused = fuse(swept)
    plain = {each for job in combinations(swept) for each in conditions(job)}
    counted = Counter(each for part in fused for job in part.jobs for each in conditions(job))
    assert set(counted) == plain
    assert set(counted.values()) == {1}
    apart = [sorted(job) for part in fused for job in part.apart]
    assert sorted(apart) == sorted(sorted(job) for job in combinations(swept))
