"""Scalars of an embedding."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
import torch
from nets import batch, net

from attrscore.engine.evaluate import evaluate
from attrscore.errors import ConfigError, DataError
from attrscore.targets import Contrast, Cosine, Embedding, Norm, Probe

OUTPUT = torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("target", "name", "expected"),
    [
        (Embedding(index=1), "embedding1", [4, -2]),
        (Norm(), "norm", [5, 2]),
        (Cosine([0, 2]), "cosine", [0.8, -1]),
        (Contrast([1, 1], [1, -1]), "contrast", [4, -2]),
        (Probe([1, 10]), "probe", [43, -20]),
    ],
)
def test_by_hand(target, name, expected):
    data = batch(n=2)
    assert target(OUTPUT, target.prepare(OUTPUT, data)).tolist() == pytest.approx(expected)
    assert str(target) == name


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "csv", "txt"])
def test_references_from_files_are_known_by_their_numbers(tmp_path, suffix):
    path = tmp_path / f"DMSO.{suffix}"
    values = np.array([[0.0, 2.0]])
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "safetensors":
        safetensors.numpy.save_file({"mean": values}, path)
    else:
        np.savetxt(path, values, delimiter="," if suffix == "csv" else " ")
    target = Cosine(str(path))
    assert str(target) == "cosine:DMSO"
    assert target.identity == Cosine([0, 2]).identity != Cosine([0, 3]).identity
    assert target(OUTPUT, OUTPUT).tolist() == pytest.approx([0.8, -1])


@pytest.mark.parametrize("target", [Embedding(), Norm(), Cosine([1, 0, 2]), Probe([1, 0, 2])])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_audit_of_an_embedding_has_no_predicted_class(target, dimensions):
    table = evaluate(
        net(dimensions),
        batch(dimensions),
        methods=["grad_cam", "integrated_gradients"],
        target=target,
        progress="none",
    )
    assert set(table["target"]) == {str(target)}
    assert set(table["predicted"]) == {-1}
    assert table["confidence"].isna().all()
    assert set(table["status"]) <= {"ok", "no_positive_mass"}
    complete = table[table["method"] == "integrated_gradients"]
    assert complete["completeness_error"].abs().max() < 0.05 * complete["output_change"].abs().max()


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Cosine([[1, 2], [3, 4]]), ConfigError, "one row of finite numbers"),
        (lambda: Cosine([1, float("nan")]), ConfigError, "one row of finite numbers"),
        (lambda: Cosine("nowhere.npy"), DataError, "nowhere.npy cannot be read"),
        (lambda: Cosine("profile.xlsx"), ConfigError, "expected a .npy, .safetensors"),
        (lambda: Contrast([1, 2], [1, 2]), ConfigError, "the same reference"),
        (lambda: Cosine([1, 2, 3])(OUTPUT, OUTPUT), ConfigError, "has 3 numbers and the model"),
        (lambda: Embedding(index=2)(OUTPUT, OUTPUT), ConfigError, "target.index=2 is no dimension"),
    ],
)
def test_errors(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_a_pickle_in_a_npy_file_is_not_opened(tmp_path):
    path = tmp_path / "evil.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="allow_pickle=False"):
        Cosine(str(path))
