"""Edits of code are noticed where they change numbers: in what is called, not in libraries."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import nn

from attrscore.core.code import text_of
from attrscore.core.registry import origin_of
from attrscore.models import fingerprint

HELPERS = "import torch\nSCALE = 2.0\nPATH = '/home/me'\ndef gate(x):\n    return torch.relu(x)\n"
NETS = """
import functools
import helpers
from helpers import gate

WIDTH = 3
UNUSED = 1

def limit(x, by=helpers.gate):
    return by(x)

def slope(x, k):
    return k * x

class Base(nn.Module):
    def forward(self, x):
        return [limit(y) for y in x] and gate(x) * helpers.SCALE + WIDTH

class Net(Base):
    def __init__(self, times=1):
        super().__init__()
        self.times = times
        self.act = functools.partial(slope, k=2)
        self.inner = nn.Linear(2, 2)
        torch.nn.init.ones_(self.inner.weight)
        torch.nn.init.zeros_(self.inner.bias)

def score(heat, run, /):
    return limit(heat.mass())
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Two modules of a user, loaded with some of their text exchanged."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(old="", new=""):
        texts = {"helpers": HELPERS, "nets": "import torch\nfrom torch import nn\n" + NETS}
        assert not old or any(old in text for text in texts.values())
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            return importlib.import_module("nets")
        finally:
            sys.dont_write_bytecode = before

    yield load
    for name in ("helpers", "nets"):
        sys.modules.pop(name, None)


SEEN = [
    ("torch.relu(x)", "torch.tanh(x)"),  # a function of another file
    ("SCALE = 2.0", "SCALE = 3.0"),
    ("WIDTH = 3", "WIDTH = 4"),
    ("return by(x)", "return by(x) + 1"),  # called in a comprehension
    ("+ WIDTH", "- WIDTH"),  # of a base class
    ("return k * x", "return x"),  # behind a partial
    ("k=2)", "k=3)"),
]


@pytest.mark.parametrize(("old", "new"), SEEN)
def test_the_fingerprint_sees_what_a_forward_calls(old, new, load):
    before = fingerprint(load().Net())
    assert fingerprint(load().Net()) == before
    assert fingerprint(load(old, new).Net()) != before


def test_what_is_not_called_and_where_files_lie_do_not_matter(load):
    before = fingerprint(load().Net())
    assert fingerprint(load("UNUSED = 1", "UNUSED = 2").Net()) == before
    assert fingerprint(load("/home/me", "/home/you").Net()) == before
    assert fingerprint(load().Net().train()) == before


def test_plain_attributes_are_settings(load):
    nets = load()
    assert fingerprint(nets.Net(times=2)) != fingerprint(nets.Net())
    heads = [nn.MultiheadAttention(4, heads) for heads in (1, 2)]
    heads[1].load_state_dict(heads[0].state_dict())
    assert fingerprint(heads[0]) != fingerprint(heads[1])


def test_the_origin_of_a_plugin_knows_what_it_calls(load):
    before = origin_of(load().score)
    assert origin_of(load().score) == before
    assert origin_of(load("torch.relu(x)", "torch.tanh(x)").score) != before


def test_libraries_stand_still():
    assert text_of([nn.Linear, torch.relu]) == ""

    def mine(x):
        return nn.functional.relu(x)

    assert "relu" in text_of([mine])
    assert "threshold" not in text_of([mine])
