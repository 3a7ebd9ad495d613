"""``attrscore plugins`` as a user calls it."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from attrscore.cli.main import main
from attrscore.core.registry import SCORERS, Installed


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """A scorer of an installed package that divides by an epsilon, and one that is not there."""
    (tmp_path / "strangers_share.py").write_text(
        "def share(heat, run, /, *, region='cell'):\n"
        "    '''The share on a region.'''\n"
        "    return heat.mass(run.batch.regions[region]) / (heat.mass() + 1e-8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = {"share": "strangers_share:share", "lost": "strangers_share:lost"}
    made = {n: [Installed("scorer", EntryPoint(n, v, SCORERS.group))] for n, v in points.items()}
    monkeypatch.setitem(SCORERS.__dict__, "_installed", made)


def test_a_plugin_says_what_it_means_and_what_each_option_is(capsys):
    assert main(["plugins", "distance"]) == 0
    told = capsys.readouterr().out
    assert "scorer distance (attrscore " in told
    assert "score: lower is better; in µm or voxels; chance in .chance" in told
    assert main(["plugins", "swap", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["options"]["count"] == {
        "required": False,
        "default": 4,
        "says": "Donors averaged; 3 forwards each",
    }
    assert main(["plugins", "swapp"]) == 2
    assert "Did you mean 'swap'" in capsys.readouterr().err


def test_a_strangers_is_listed_explained_and_checked(stranger, capsys):
    assert main(["plugins"]) == 0
    told = capsys.readouterr()
    assert "share" in told.out
    assert "left out: scorer 'lost' of the package strangers_share:lost cannot be" in told.err
    assert main(["plugins", "share"]) == 0
    assert "region = 'cell'" in capsys.readouterr().out
    assert main(["plugins", "check", "share", "region=nucleus"]) == 1
    told = capsys.readouterr().out
    assert "broken   scorer 'share' in 3D, undefined is NaN: 'share' is 0 for a cell with" in told
    assert "checks are broken" in told
    assert main(["plugins", "check", "lost"]) == 2
    assert "cannot be imported" in capsys.readouterr().err


def test_one_of_ours_conforms(capsys):
    assert main(["plugins", "check", "entropy", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert {each["state"] for each in found["checks"]} == {"holds"}
    assert main(["plugins", "check", "entropy", "steps"]) == 2
    assert "'steps' is no option; expected name=value" in capsys.readouterr().err
    assert main(["plugins", "check", "entropy", "--kind", "model"]) == 2
    assert main(["plugins", "check", "entropy", "steps=3"]) == 2
    assert "has no option 'steps'" in capsys.readouterr().err


def test_a_new_one_says_what_comes_next(capsys):
    assert main(["plugins", "new", "scorer", "my_share", "-o", "here"]) == 0
    assert "next: python -m pip install -e here/my_share" in capsys.readouterr().out
    assert main(["plugins", "new", "scorer", "my_share", "--output", "here"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
