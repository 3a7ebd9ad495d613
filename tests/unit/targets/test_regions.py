"""A dense output, asked about one cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from nets import SPACES, batch, cells, conv, net, pool
from torch import nn

from attrscore import METHODS, SCORERS, evaluate
from attrscore.engine.preflight import preflight, survey
from attrscore.engine.run import run
from attrscore.errors import ConfigError, DataError, UnsupportedError
from attrscore.targets import Region

SETTINGS = {"methods": ["hires_cam", "saliency"], "progress": "none"}


class Segmenter(nn.Module):
    """Class 1 at a pixel is the first channel there, class 2 the second; class 0 is 0.1."""

    def __init__(self, dimensions: int = 2, step: int = 1) -> None:
        super().__init__()
        self.features = conv(dimensions, 2, 2, 1, stride=step, bias=False).double()
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(2).view(2, 2, *[1] * dimensions))

    def forward(self, x):
        found = self.features(x)
        return torch.cat([torch.full_like(found[:, :1], 0.1), found], 1)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("of", ["cell", "nucleus", "cytoplasm", "background", "boundary"])
def test_the_mean_of_an_output_over_a_region_by_hand(dimensions, of):
    from attrscore.core.regions import region_of

    data = cells(dimensions)
    output = Segmenter(dimensions)(data.inputs)
    target = Region(of=of, index=2)
    found = target(output, target.prepare(output, data))
    mask = region_of(data, of)
    for row in range(len(data)):
        where = mask[row].bool()
        expected = data.inputs[row, 1][where].mean()
        torch.testing.assert_close(found[row], expected)
    assert str(target) == f"region:{of}:2"


def test_the_pixels_that_are_given_to_a_class():
    data = batch()
    output = Segmenter()(data.inputs)
    target = Region(of="predicted", index=1)
    where = output.argmax(1) == 1
    found = target(output, target.prepare(output, data))
    for row in range(4):
        torch.testing.assert_close(found[row], data.inputs[row, 0][where[row]].mean())


def test_without_an_index_it_is_the_class_of_most_of_the_cell():
    data = batch()
    output = torch.zeros((4, 3, *data.space))
    for row, label in enumerate((2, 0, 1, 2)):
        output[row, (label + 1) % 3] = 1.0
        output[row, label][data.regions["cell"][row]] = 5.0 + row
    target = Region()
    assert target(output, target.prepare(output, data)).tolist() == [5, 6, 7, 8]
    assert str(target) == "region:cell:predicted"


@pytest.mark.parametrize(("one_output", "cut"), [("logit", 0.0), ("probability", 0.5)])
def test_one_output_tells_two_classes(one_output, cut):
    data = batch()
    output = torch.full((4, 1, *data.space), cut - 0.2)
    output[0, 0][data.regions["cell"][0]] = cut + 0.3
    target = Region(one_output=one_output)
    found = target(output, target.prepare(output, data))
    torch.testing.assert_close(found, torch.tensor([cut + 0.3] + [0.2 - cut] * 3))
    target = Region(of="predicted", index=0, one_output=one_output)
    found = target(output, target.prepare(output, data))
    torch.testing.assert_close(found[0], torch.tensor(cut + 0.3))
    assert found[1:].isnan().all()  # no pixel is given to the class


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_coarser_output_gets_the_share_of_the_region_at_each_position(dimensions):
    data = batch(dimensions)
    output = Segmenter(dimensions, step=2)(data.inputs)
    target = Region(index=1)
    aux = target.prepare(output, data)
    assert aux.shape == output.shape
    torch.testing.assert_close(aux.flatten(1).sum(1), torch.ones(4).double())
    pooled = getattr(nn.functional, f"avg_pool{dimensions}d")
    shares = pooled(data.regions["cell"].double()[:, None], 2)
    torch.testing.assert_close(
        aux[:, 1:2] * shares.flatten(1).sum(1).view(-1, *[1] * (dimensions + 1)), shares
    )


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_segmenter_that_reads_a_pixel_for_itself_looks_at_the_cell(dimensions):
    """Of a pointwise model, all attribution to the cell's pixels lies in the cell: score 1."""
    table = evaluate(
        Segmenter(dimensions),
        batch(dimensions),
        target=Region(index=1),
        layers="features",
        scorers=["grad_camo", "swap"],
        pool=pool(dimensions),
        **SETTINGS,
    )
    assert set(table["status"]) == {"ok"}
    saliency = table[table["method"] == "saliency"]
    np.testing.assert_allclose(saliency["grad_camo"], 1, atol=1e-12)
    assert (table["predicted"] == -1).all()
    assert table["confidence"].isna().all()
    np.testing.assert_allclose(table["swap.outside"], 0, atol=1e-12)
    assert (table["swap.inside"].abs() > 0).all()
    assert (table["swap.outside_share"] == 0).all()


SMALL = {
    "occlusion": {"window": 4, "stride": 4},
    "kernel_shap": {"samples": 20},
    "rise": {"samples": 12, "grid": 3},
}
METHOD_NAMES = [
    entry.name
    for entry in METHODS.entries()
    if entry.alias_of is None and entry.name not in ("captum", "kept")
]


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_takes_dense_outputs_or_says_why_not(name, dimensions):
    method = METHODS.build(name, **SMALL.get(name, {}))
    model, data = net(dimensions, dense=True), batch(dimensions)
    asked = {"methods": {name: method}, "layers": "high", "target": Region(), "keep": "native"}
    asked["pool"] = pool(dimensions)
    (together,) = run(model, data, **asked)
    assert set(together.columns["status"]) <= {"ok", "no_positive_mass", "unsupported"}
    if together.maps is None:
        assert (
            name in ("finer_cam", "lrp", "layer_lrp")
            or "attention" in together.columns["reason"][0]
        )
        return
    alone = np.concatenate(
        [next(iter(run(model, data.rows(i, i + 1), **asked))).maps for i in range(4)]
    )
    np.testing.assert_allclose(together.maps, alone, rtol=1e-6, atol=1e-12)


def test_every_scorer_takes_dense_outputs():
    from nets import CHEAP as OPTIONS

    scorers = {
        entry.name: SCORERS.build(entry.name, **OPTIONS.get(entry.name, {}))
        for entry in SCORERS.entries()
        if entry.alias_of is None
    }
    (result,) = run(
        net(dense=True), cells(), layers="high", target=Region(), scorers=scorers, pool=pool()
    )
    assert set(result.columns["status"]) == {"ok"}
    assert not any("error" in str(r).lower() for r in result.columns["reason"]), result.columns[
        "reason"
    ]
    for name in ("deletion", "insertion", "infidelity", "average_drop", "road"):
        assert np.isfinite(result.columns[name]).all(), name


def test_the_memory_of_a_swap_does_not_grow_with_the_outputs(monkeypatch):
    from attrscore.core.passes import Pass

    sizes = []
    plain = Pass.outputs

    def seen(self, altered):
        found = plain(self, altered)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Pass, "outputs", seen)
    swap = SCORERS.build("swap", count=2, chunk=3)
    (result,) = run(
        net(dense=True),
        cells(),
        layers="high",
        target=Region(),
        scorers={"swap": swap},
        pool=pool(),
    )
    assert max(sizes) == 3
    assert np.isfinite(result.columns["swap"]).all()


@dataclass(frozen=True)
class Brightest:
    """A target of a stranger: the largest value of class 1 in the crop."""

    of_classes = False

    def prepare(self, output, data):
        return output[:, 1].flatten(1).argmax(1)

    def __call__(self, output, aux):
        return output[:, 1].flatten(1).gather(1, aux[:, None])[:, 0]


@dataclass(frozen=True)
class EveryPixel:
    """One that forgets to make a scalar."""

    def prepare(self, output, data):
        return output.new_empty((len(output), 0))

    def __call__(self, output, aux):
        return output[:, 1]


def test_a_plugin_target_sees_the_dense_output():
    (result,) = run(Segmenter(), batch(), methods="saliency", target=Brightest())
    expected = batch().inputs[:, 0].flatten(1).amax(1)
    np.testing.assert_allclose(result.columns["explained"], expected)
    with pytest.raises(UnsupportedError, match=r"expected \(4,\), one scalar a cell"):
        list(run(Segmenter(), batch(), methods="saliency", target=EveryPixel()))


@pytest.mark.parametrize("target", ["predicted", "label", "index", "embedding", "norm", 1])
def test_targets_of_a_cells_scores_refuse_a_dense_output(target):
    with pytest.raises(UnsupportedError, match="expected one tensor.*target=region explains"):
        evaluate(Segmenter(), batch(), target=target, **SETTINGS)


def test_an_output_that_is_no_score_of_pixels_is_said_to_be_none():
    def of(change) -> nn.Module:
        class Changed(Segmenter):
            def forward(self, x):
                return change(super().forward(x))

        return Changed()

    options = {**SETTINGS, "target": Region()}
    with pytest.raises(UnsupportedError, match="its classes last; wrap it"):
        evaluate(of(lambda found: found.movedim(1, -1)), batch(), **options)
    for change in (lambda found: found[:, 0], lambda found: torch.stack([found, found], 1)):
        with pytest.raises(UnsupportedError, match=r"A dense output has 4 axes, \(N, K, \*S\)\.$"):
            evaluate(of(change), batch(), **options)
    options |= {"methods": METHODS.build("occlusion", window=4, stride=4)}
    table = evaluate(of(lambda found: found > 0), batch(), **options)  # a mask, of true and false
    assert "error" not in set(table["status"])


def test_scores_of_a_cell_are_no_dense_output():
    with pytest.raises(UnsupportedError, match=r"needs a value at each pixel.*\(4, 3\)"):
        evaluate(net(), batch(), target=Region(), **SETTINGS)


def test_regions_and_outputs_that_are_not_there():
    with pytest.raises(DataError, match="no region 'nucleus'"):
        evaluate(Segmenter(), batch(), target=Region(of="nucleus"), **SETTINGS)
    with pytest.raises(ConfigError, match="expected numbers from 0 to 2"):
        evaluate(Segmenter(), batch(), target=Region(index=3), **SETTINGS)
    with pytest.raises(ConfigError, match="one_output='logits' is not a choice"):
        Region(one_output="logits")


def test_an_empty_region_costs_its_own_row():
    data = cells()
    nucleus = data.regions["nucleus"].clone()
    nucleus[2] = False
    inputs = data.inputs.abs()
    inputs[3, 0, 0, 0] = torch.nan
    data = replace(data, inputs=inputs, regions={**data.regions, "nucleus": nucleus})
    table = evaluate(Segmenter(), data, target=Region(of="nucleus", index=1), **SETTINGS)
    assert isinstance(table, pd.DataFrame)
    for _, rows in table.groupby("method"):
        assert rows["status"].tolist() == ["ok", "ok", "empty_region", "nonfinite"]
        assert rows["explained"].isna().tolist() == [False, False, True, True]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_preflight_says_what_the_model_puts_out(dimensions):
    size = " x ".join(map(str, SPACES[dimensions]))
    assert survey(Segmenter(dimensions), batch(dimensions)).output.startswith(
        f"N x 3 x {size}: dense"
    )
    assert (
        survey(net(dimensions), batch(dimensions)).output
        == "N x 3: scores or an embedding of a cell"
    )
    findings = preflight(Segmenter(dimensions), batch(dimensions), target=Region())
    assert {finding.verdict for finding in findings} == {"ok"}
