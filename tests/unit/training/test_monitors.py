"""Monitors in loops of other libraries: real torchmetrics, real Lightning."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import attrscore
from attrscore.datasets import Phantom
from attrscore.models.tiny import TinyCNN
from attrscore.targets import Predicted
from attrscore.training import monitor, train
from attrscore.training.fit import monitored_rows

lightning = pytest.importorskip("lightning", reason="attrscore[lightning]")

from attrscore.training.monitors import LooksAtTheCell, WhereItLooks  # noqa: E402

CHEAT = Phantom(cells=96, size=(32, 32), carrier="background", seed=31_200)


def crops(n=24, **changes):
    cells = replace(CHEAT, cells=n, **changes)
    return cells.read(range(n))


@pytest.fixture(scope="module")
def model():
    made = TinyCNN(width=4)(CHEAT.spec)
    train(made, CHEAT, epochs=6)
    return made


def test_a_metric_has_the_numbers_of_an_audit_and_its_states_reduce_over_processes(model):
    batch = crops()
    rows = attrscore.evaluate(
        model, batch, methods="hires_cam", target=Predicted(scalar="margin"), progress="none"
    )
    whole, halves = LooksAtTheCell(), [LooksAtTheCell(), LooksAtTheCell()]
    whole.update(model, batch)
    found = whole.compute()
    assert float(found["score"]) == pytest.approx(rows["grad_camo"].mean(), abs=1e-12)
    assert float(found["log_odds"]) == pytest.approx(rows["grad_camo.log_odds"].mean(), abs=1e-12)
    assert float(found["undefined"]) == pytest.approx(rows["grad_camo"].isna().mean())
    assert float(found["swap_outside"]) > float(found["swap_inside"])

    for half, metric in zip((batch.rows(0, 8), batch.rows(8, 24)), halves, strict=True):
        metric.update(model, half)
    # what torchmetrics does with states whose reduction is a sum
    for name, reduction in halves[0]._reductions.items():
        assert reduction is not None
        setattr(halves[0], name, reduction(torch.stack([getattr(m, name) for m in halves])))
    assert float(halves[0].compute()["score"]) == pytest.approx(float(found["score"]))
    whole.reset()
    assert float(whole.cells) == 0


def test_means_are_over_the_cells_that_define_them_however_they_come(model):
    batch = crops()
    masks = batch.regions["cell"].clone()
    masks[:5] = False  # neither a score nor a swap
    regions = {"cell": masks, "neighbours": batch.regions["neighbours"]}
    parts = [replace(batch, regions=regions).rows(0, 8), batch.rows(8, 24)]
    metric = LooksAtTheCell()
    for part in parts:
        metric.update(model, part)
    rows = pd.concat([monitored_rows(model, part) for part in parts])
    assert rows["swap_outside"].isna().sum() == 5
    found = metric.compute()
    for name in rows:
        assert float(found[name]) == pytest.approx(rows[name].mean(), abs=1e-12)
    assert float(found["undefined"]) == pytest.approx(5 / 24)


def test_it_leaves_model_and_random_state_alone_also_in_inference_mode(model):
    batch = crops()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    plain = monitor(model, batch, [batch.inputs])
    with torch.inference_mode():
        within = monitor(model, replace(batch, inputs=batch.inputs * 1), [batch.inputs * 1])
    assert within == plain
    assert model.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()


def test_stale_statistics_of_batch_normalisation_are_taken_anew(model):
    batch = crops()
    stale = TinyCNN(width=4)(CHEAT.spec)
    stale.load_state_dict(model.state_dict())
    for module in stale.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(3.0)
            module.running_var.fill_(50.0)
    inputs = CHEAT.read(range(96)).inputs
    expected = monitor(model, batch, [inputs])
    assert monitor(stale, batch, [inputs]).log_odds == pytest.approx(expected.log_odds)
    assert monitor(stale, batch).log_odds != pytest.approx(expected.log_odds, abs=0.05)


class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = TinyCNN(width=4)(CHEAT.spec).train()

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, _):
        inputs, _, labels = batch
        return F.cross_entropy(self(inputs), labels)

    def validation_step(self, batch, _):
        self.log("right", (self(batch[0]).argmax(1) == batch[2]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's own, of loaders without workers and loggers
def test_a_lightning_callback_logs_where_a_cheat_looks_after_each_epoch(tmp_path):
    loaders = []
    for seed, n in ((31_201, 96), (31_202, 24)):
        batch = crops(n, seed=seed)
        cells = TensorDataset(batch.inputs, batch.regions["cell"], batch.label)
        loaders.append(DataLoader(cells, batch_size=24, shuffle=n == 96))
    watcher = WhereItLooks()
    trainer = lightning.Trainer(
        max_epochs=8,
        accelerator="cpu",
        callbacks=[watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        inference_mode=True,
    )
    module = Lit()
    trainer.fit(module, *loaders)
    assert len(watcher.history) == 8  # not the sanity check
    last = watcher.history[-1]
    assert last["swap_outside"] > 0.1 > last["swap_inside"]
    assert last["random_lowest"] < last["random_highest"]
    for name, value in last.items():
        assert float(trainer.callback_metrics[f"attrscore/{name}"]) == pytest.approx(
            value, rel=1e-5, nan_ok=True
        )
    assert module.training or not module.net.features[0].weight.is_inference()
    trainer.validate(module, loaders[1], verbose=False)
    assert "attrscore/score" in trainer.callback_metrics
