"""Results that somebody gave us are data: nothing that they name runs unless we say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from attrscore.cli.main import main

SMALL = ["dataset.cells=4", "dataset.size=[32,32]", "batch_size=5", "figures=none"]

HOSTILE = """
from pathlib import Path
Path("ran").touch()
def make(**_):
    Path("ran").touch()
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    assert main([*SMALL, "keep=native", f"results={folder}/results"]) == 0
    return folder / "results"


@pytest.fixture
def given(plain, tmp_path, monkeypatch) -> Path:
    """A copy whose configuration can be forged, beside a module that leaves a mark."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(plain, "results")
    Path("evil_nets.py").write_text(HOSTILE)
    (folder,) = Path("results/jobs").iterdir()
    return folder


def forge(folder: Path, **settings) -> None:
    """Change what the configuration of a job says."""
    known = json.loads((folder / "job.json").read_text())
    config = OmegaConf.create(known["config"])
    for name, value in settings.items():
        OmegaConf.update(config, name.replace("__", "."), value, merge=False, force_add=True)
    known["config"] = OmegaConf.to_yaml(config)
    (folder / "job.json").write_text(json.dumps(known))


COMMANDS = {
    "export": ["export", "results", "--to", "tiff"],
    "view": ["view", "results", "--screenshot", "out.png"],
    "reproduce": ["reproduce", "results"],
}
MAKE = {"name": "factory", "target": "evil_nets.make", "options": {}}
KINDS = {
    "dataset": {"dataset": MAKE},
    "model": {"model": MAKE},
    "target": {"method": {"grad_cam": {"_target_": "evil_nets.make"}}},
    "nested": {"dataset__normalize": {"_target_": "evil_nets.make"}},
    "indirect": {"extra": "factory", "dataset": {**MAKE, "name": "${extra}"}},
    "torchscript": {"model": {"name": "torchscript", "weights": "ran.pt"}},
    "exported": {"model": {"name": "exported", "weights": "ran.pt2"}},
    "pickle": {"dataset": {"name": "fields", "images": "*.tif", "allow_pickle": True}},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_kept_configuration_names_does_not_run(command, kind, given, capsys):
    forge(given, trust=["evil_nets", "os", "torchscript", "exported"], **KINDS[kind])
    before = capsys.readouterr()
    code = main(COMMANDS[command])
    said = "".join(capsys.readouterr())
    assert not Path("ran").exists()
    if set(KINDS[kind]) & {"dataset", "dataset__normalize"} or command == "reproduce":
        assert code in (1, 2)
        assert "say trust=[" in said, before


def test_it_runs_where_this_command_line_trusts_it(given, capsys):
    forge(given, dataset=MAKE)
    assert main([*COMMANDS["export"], "trust=[other]"]) == 2
    assert not Path("ran").exists()
    assert "say trust=[evil_nets]" in capsys.readouterr().err
    main([*COMMANDS["reproduce"], "trust=[evil_nets]"])
    assert Path("ran").exists()


def test_trust_of_a_package_is_not_trust_of_what_it_imports(given, capsys):
    Path("friend.py").write_text("import os")
    target = {**MAKE, "target": "friend.os.system", "options": {"command": "touch ran"}}
    forge(given, dataset=target)
    assert main([*COMMANDS["reproduce"], "trust=[friend]"]) == 1
    assert "give its own path" in capsys.readouterr().out
    assert not Path("ran").exists()


def test_verify_says_which_configurations_would_run_code(given, capsys):
    assert main(["verify", "results"]) == 0
    assert "trust=" not in capsys.readouterr().out
    forge(given, dataset=MAKE)
    assert main(["verify", "results"]) == 0
    assert "dataset.target=evil_nets.make in " in capsys.readouterr().out
    assert main(["verify", "results", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs_code"]
    assert found["trust"] == "evil_nets"
