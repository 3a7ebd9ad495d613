"""Commands speak alike: help with an example, exit codes, --json, plain text where it is piped."""

from __future__ import annotations

import json
import re

import pytest

from attrscore.cli.main import COMMANDS, main

SMALL = ["dataset.cells=6", "dataset.size=[32,32]", "figures=none", "layers=all_conv"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def results():
    assert main([*SMALL, "scorer=[grad_camo,deletion]", "scorer.deletion.steps=2"]) == 0


@pytest.mark.parametrize("verb", [*COMMANDS, "plugins new", "plugins check"])
def test_help_shows_an_example_that_begins_with_the_verb(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*verb.split(), "--help"])
    told = capsys.readouterr().out
    assert f"usage: attrscore {verb}" in told
    assert re.search(rf"example.*attrscore {verb.split()[0]}", told, flags=re.DOTALL)
    assert "    Where" not in told


@pytest.mark.parametrize("verb", ["collect", "export --to csv", "report", "status", "verify"])
def test_an_empty_folder_is_told_where_results_are(verb, capsys, tmp_path):
    assert main(verb.split()) == 2
    told = capsys.readouterr().err
    assert "There is no file or folder results. Runs of attrscore write into" in told
    assert not list(tmp_path.iterdir())
    (tmp_path / "results").mkdir()
    assert main(verb.split()) == 2
    assert "results is no results folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method=[grad_cam,nope]"], "No method is called 'nope'."),
        (["scorer=[grad_camo,swp]"], "No scorer is called 'swp'. Did you mean 'swap'"),
        (["inspect", "nope"], "'nope' is no setting; settings are given as name=value"),
        (["statsu"], "There is no command 'statsu'. Did you mean 'status'"),
        (["report", "--json", "-o", "page"], "leave out -o"),
        (["collect", "-o", "scores.xlsx"], "must end in one of .h5, .csv, .parquet"),
    ],
)
def test_mistakes_in_the_command_exit_2_in_a_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert words in " ".join(told.split())
    assert "Traceback" not in told


def test_results_by_default_and_json_where_a_machine_reads(results, capsys):
    capsys.readouterr()
    assert main(["collect", "--json", "--figures", "none"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 18
    assert told["means"][0]["grad_camo.chance"] == pytest.approx(0.139, abs=0.01)
    for verb in (["status"], ["verify"], ["report"], ["plan", *SMALL], ["inspect"]):
        assert main([*verb, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)
    assert main(["inspect", "dataset=phantom", "--json", "figures=none"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["cells"] == "256"


def test_what_is_piped_is_plain(capsys):
    assert main([*SMALL, "scorer=[grad_camo,deletion]", "scorer.deletion.steps=2"]) == 0
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    header, *rows = told.out.splitlines()[1:5]
    assert header.split()[:4] == ["model", "dataset", "method", "layer"]
    assert [len(row.split()) for row in rows] == [len(header.split())] * 3
    assert "lower is better: deletion" in told.out
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not re.search("[\u2500-\u257f\x1b]", "".join(lines))
    assert any(line.split()[:3] == ["scorer", "grad_camo", "attrscore"] for line in lines)


def test_warnings_are_sentences(monkeypatch, capsys):
    from importlib.metadata import EntryPoint

    from attrscore.core.registry import SCORERS, Installed

    point = Installed("scorer", EntryPoint("auc", "math:sqrt", SCORERS.group))
    monkeypatch.setitem(SCORERS.__dict__, "_installed", {"auc": [point]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filters", [])
        assert main(["plugins", "auc"]) == 0
    told = capsys.readouterr()
    assert "warning: scorer 'auc' is attrscore's own" in told.err
    assert "scorer auc (attrscore" in told.out


@pytest.mark.parametrize(
    "command",
    [
        ["nosuch"],
        ["x"],
        ["results=file.txt", *SMALL],
        ["status", "nosuch"],
        ["reproduce", "nosuch"],
        ["view", "nosuch", "--cells", "a"],
        ["plugins", "nosuch"],
        ["plugins", "check", "grad_camo", "regoin=cell"],
        [
            "dataset=fields",
            "dataset.images=no/*.tif",
            "dataset.masks=no/*.tif",
            "dataset.crop=[8,8]",
        ],
        ["dataset=npz", "dataset.path=nosuch.npz"],
        ["dataset=hdf5", "dataset.path=nosuch.h5"],
        ["dataset=deepprofiler", "dataset.path=nosuch"],
        ["dataset.shard=3/2", *SMALL],
        ["model.weights=nosuch.safetensors", *SMALL],
        ["model.weights=file.txt", *SMALL],
        ["model=factory", "model.target=no.such", *SMALL],
        [*SMALL, "layers=[]"],
        [*SMALL, "layers=nosuch"],
        ["method=nosuch"],
        ["-m", "method=nosuch,grad_cam"],
        ["target=index", "target.index=99", *SMALL],
        ["target=cosine", "target.reference=nosuch.npy", *SMALL],
        ["target=cosine", "target.reference={Metadata_Well: Z99}", *SMALL],
        ["train", "train.split_by=nosuch", *SMALL],
    ],
    ids=" ".join,
)
def test_a_mistake_in_the_command_is_a_sentence_and_exit_code_2(command, capsys, tmp_path):
    (tmp_path / "file.txt").touch()
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "\nerror: " in f"\n{told}"
    assert "Traceback" not in told


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    "options",
    [
        ["export", "results", "--to", "csv", "--method", "nosuch"],
        ["export", "results", "--to", "csv", "--profiles", "nosuch.csv", "--on", "Metadata_Well"],
        ["report", "results", "--null", "nosuch"],
        ["report", "results", "--score", "nosuch"],
        ["report", "results", "--clusters", "nosuch"],
        ["collect", "results", "-o", "table.foo"],
    ],
    ids=" ".join,
)
def test_so_is_one_about_results_that_are_there(options):
    assert main(options) == 2
