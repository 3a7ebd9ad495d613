"""attrscore report, as users type it."""

from __future__ import annotations

import json

import pytest

from attrscore.cli.main import main
from attrscore.report.figures import FIGURES

SMALL = ["dataset.cells=64", "dataset.size=[32,32]", "figures=none", "keep=native"]
SMALL += ["method=[grad_cam,hires_cam]", "layers=[features.3,features.6]"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert main([*SMALL, f"results={folder}", f"hydra.run.dir={folder}/hydra"]) == 0
    return folder


def test_a_results_folder_is_told_on_the_terminal(results, tmp_path, capsys):
    capsys.readouterr()
    assert main(["report", str(results), "--figures", str(tmp_path / "figures")]) == 0
    out, err = capsys.readouterr()
    for words in (
        "64 cells, 4 conditions",
        "intervals over 2 units of Metadata_Plate",
        "S > 0.5",
        "attainable",
        "run it again with model.randomize=all model.draws=19",
        "inconclusive: no swap: run it again with 'scorer=[grad_camo,swap]'",
        "methods on the same cells",
        "rank correlation of scores",
        "overlap of the hottest tenth",
    ):
        assert words in out
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"{name}.png" for name in FIGURES}
    assert err.count("figure: ") == len(FIGURES)


def test_a_collected_table_says_the_same_as_its_folder(results, tmp_path, capsys):
    table = str(tmp_path / "all.parquet")
    assert main(["collect", str(results), "-o", table, "--figures", "none"]) == 0
    told = []
    for place in (str(results), table):
        capsys.readouterr()
        assert main(["report", place, "--json", "--by", "Metadata_Plate"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["maps"]
    assert not told[1]["maps"]  # a table keeps no maps
    for name in ("summary", "groups", "verdicts", "comparisons", "agreement"):
        assert told[0][name] == told[1][name]
    assert len(told[0]["groups"]) == 8


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--score", "grad_cam"], "Did you mean 'grad_camo'"),
        (["--clusters", "Metadata_Wel"], "Did you mean 'Metadata_Well'"),
        (["--by", "Metadata_Treatment"], "There is no column 'Metadata_Treatment'"),
        (["--null", "random"], "There is no model 'random'"),
        (["--primary", "layer=features.9"], "No condition is the primary layer=features.9"),
        (["--rule", "efect=0.2"], "The rule has no 'efect'. Did you mean 'effect'"),
        (["--rule", "effect=much"], "--rule effect=much must be a number"),
    ],
)
def test_mistakes_get_one_sentence(results, args, sentence, capsys):
    assert main(["report", str(results), *args]) in (1, 2)
    err = " ".join(capsys.readouterr().err.split())
    assert sentence in err
    assert "Traceback" not in err
