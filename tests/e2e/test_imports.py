"""What is loaded when: start-up and reading results stay light."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

HEAVY = {"torch", "captum", "matplotlib"}


def loaded(code: str) -> set[str]:
    report = "\nimport sys; print('\\n'.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import attrscore", HEAVY | {"hydra", "pandas"}),
        (
            "from attrscore.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
            HEAVY,
        ),
        ("import attrscore.store", HEAVY | {"hydra"}),
        ("import attrscore; attrscore.read_scores", HEAVY | {"hydra"}),
        ("import attrscore.report", {"torch", "captum", "hydra"}),
        ("import attrscore.report.figures", {"torch", "captum", "hydra", "h5py"}),
        ("import attrscore.stats", HEAVY | {"hydra", "h5py", "statsmodels"}),
    ],
)
def test_is_not_loaded(code, forbidden):
    assert not loaded(code) & forbidden


def test_public_names_are_all_there():
    import attrscore

    for name in attrscore.__all__:
        assert getattr(attrscore, name) is not None
    assert set(attrscore._HOMES) == set(attrscore.__all__)
    assert attrscore.__version__ == version("attrscore")
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        attrscore.evalute  # noqa: B018
