"""What names a result."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, job

from attrscore.errors import ConfigError
from attrscore.store import (
    Condition,
    Job,
    Plugin,
    identify,
)
from attrscore.store.columns import escape, unescape


def test_equal_values_have_equal_names_however_they_are_spelled():
    assert identify({"a": (1, 2.5), "b": np.int64(3)}) == identify({"b": 3, "a": [1, 2.5]})
    assert len(identify({})) == 16
    assert identify({"a": 1}) != identify({"a": 1.0})
    assert Plugin("a", options={"x": 1}) != Plugin("a", options={"x": True})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_cannot_be_named_is_refused(value):
    with pytest.raises(ConfigError, match=r"'steps\.a\[0\]'"):
        identify({"steps": {"a": [value]}})


def test_a_job_is_its_base_conditions_and_rows():
    one, two = Condition(GRAD_CAM, "a", GRAD_CAMO), Condition(IG, "input", GRAD_CAMO)
    assert job(one, two).id == job(two, one).id
    ids = {job().id, job(one).id, job(one, two).id, job(rows=6).id, job(part_rows=3).id}
    assert len(ids | {job(base={**BASE, "seed": 1}).id}) == 6
    assert Job.from_identity(json.loads(json.dumps(job(one, two).identity))).id == job(one, two).id
    assert job().ranges == ((0, 2), (2, 4), (4, 5))


def test_one_key_stands_for_one_plugin_in_a_job():
    with pytest.raises(ConfigError, match="Two different scorers are called 'grad_camo'"):
        job(
            Condition(GRAD_CAM, "a", GRAD_CAMO),
            Condition(GRAD_CAM, "b", replace(GRAD_CAMO, options={"epsilon": 0.1})),
        )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a%2Fb", "%", "é.3", "%2E"])
def test_every_name_survives_hdf5(name, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group(escape(name))
        assert [unescape(link) for link in file] == [name]
