"""Settings have types, and a folder of results can be written, before anything runs."""

from __future__ import annotations

import os
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from attrscore.cli.hydra_app import checked_settings, configuration
from attrscore.cli.main import main
from attrscore.core.registry import conf_dir
from attrscore.errors import ConfigError
from attrscore.jobs.settings import Settings, TrainSettings, check_results

WRONG = {
    "batch_size=0": "batch_size=0 must be a whole number from 1",
    "batch_size=1.5": "batch_size=1.5 must be a whole number",
    "batch_size=true": "batch_size=true must be a whole number",
    "threads=x": "threads=x must be a whole number from 1 to 4096 or null",
    "threads=0": "threads=0 must be",
    "seed=null": "seed=null must be a whole number from 0",
    "seed=-1": "seed=-1 must be",
    "seed=[1]": "seed=[1] must be",
    "pool=many": "pool=many must be",
    "readers=two": "readers=two must be",
    "fuse=maybe": "fuse=maybe must be true or false",
    "keep=all": "keep='all' is not a choice",
    "figures=some": "figures='some' is not a choice",
    "trust=mypackage": "trust=mypackage must be a list of text",
    "results=null": "results=null must be text",
    "show=cell": "show=cell must be a list",
    "+heat.x=1": "There is no setting 'x' in heat",
    "heat=null": "heat=null: a heat must be chosen",
    "model=null": "model=null: a model must be chosen",
    "heat.sign=both": "heat.sign='both' is not a choice",
    "+layout.axis=tokens": "There is no setting 'axis' in layout. Did you mean 'axes'",
    "layout.channels=middle": "layout.channels='middle' is not a choice",
    "layout.grid=[a]": "layout.grid=['a'] must be a list of a whole number",
    "train.epochs=ten": "train.epochs=ten must be",
    "train.learning_rate=0": "train.learning_rate=0 must be a number more than 0",
    "train.learning_rate=nan": "train.learning_rate=nan must be",
    "+train.rate=1": "There is no setting 'rate' in train",
}


@pytest.mark.slow
@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_setting_is_refused(given):
    with pytest.raises(ConfigError) as refused:
        checked_settings(configuration([given]))
    assert WRONG[given] in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        [],
        ["seed=7", "threads=1", "batch_size=1", "show=[a,1]", "label.model=18", "trust=[a]"],
        ["depth=0.5"],
        ["depth=[0.25,1]", "layers=[0,features.3]", "output=1"],
        ["layout.axes=tokens", "layout.prefix=1", "layout.grid=[4,4]", "+mine=1"],
        ["layout.channels=last"],
        ["train.learning_rate=1", "train.split_by=null", "train.dataset={seed: 1}"],
    ],
)
def test_what_may_be_said_is_taken(given):
    checked_settings(configuration(given))


@pytest.fixture
def odd(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("loop").symlink_to("loop")
    Path("nothing").symlink_to("absent")
    os.mkfifo("fifo")
    Path("locked").mkdir(mode=0o500)
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize("path", ["file", "file/below", "loop", "nothing", "fifo"])
def test_odd_results_are_a_sentence(path, capsys):
    with pytest.raises(ConfigError, match=f"results={path} .*give another folder"):
        check_results(Path(path))
    for command in (
        [f"results={path}", "dataset.cells=2"],
        ["-m", f"results={path}", "seed=0,1"],
        ["status", path],
        ["verify", path],
        ["collect", path],
        ["report", path],
        ["export", path, "--to", "csv"],
        ["reproduce", path],
    ):
        assert main(command) in (1, 2), command
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert path in said.err + said.out, command
    assert Path("file").read_text() == "mine"


@pytest.mark.usefixtures("odd")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_sentence():
    for path in ("locked", "locked/below"):
        with pytest.raises(ConfigError, match="cannot be written"):
            check_results(Path(path))


def test_a_folder_that_is_there_or_can_be_made_is_taken(tmp_path):
    check_results(tmp_path)
    check_results(tmp_path / "a" / "b")


def test_the_schema_is_that_of_the_configuration():
    written = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    for schema, known in (
        (Settings, {k: v for k, v in written.items() if k not in ("defaults", "hydra")}),
        (TrainSettings, written["train"]),
    ):
        for each in fields(schema):
            if each.default is MISSING:
                assert each.name in (*known, "heat")
            else:
                default = list(each.default) if each.default == () else each.default
                assert known.pop(each.name) == default, each.name
        assert set(known) <= {"layout", "label", "train"}
