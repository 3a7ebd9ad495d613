"""The table of results: read, merged into one file, and read from that."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, LABELS, OTHER, fill, job, sweep, table

from attrscore.cli.main import main
from attrscore.core.columns import KEY_COLUMNS
from attrscore.errors import StoreError
from attrscore.store import (
    Condition,
    Writer,
    collect,
    provenance_of,
    read_scores,
    scores,
)

DATA = Path(__file__).parents[2] / "data"


def test_the_table_has_its_columns_in_order(tmp_path):
    fill(tmp_path, job(Condition(GRAD_CAM, "a", OTHER), Condition(GRAD_CAM, "a", GRAD_CAMO)))
    columns = [name for name in KEY_COLUMNS if name not in ("confidence", "depth", "reasons")]
    columns += ["grad_camo", "grad_camo.chance", "other", "other.chance", "Metadata_Plate"]
    assert read_scores(tmp_path).columns.tolist() == columns


def test_layers_are_sorted_as_numbers_and_cells_keep_their_order(tmp_path):
    fill(tmp_path, job(*(Condition(GRAD_CAM, f"f.{i}", GRAD_CAMO) for i in (10, 9)), rows=3))
    scores = read_scores(tmp_path)
    assert scores.layer.tolist() == ["f.9"] * 3 + ["f.10"] * 3
    assert scores.id.tolist() == ["cell0", "cell1", "cell2"] * 2


def test_any_place_can_be_read(tmp_path):
    folder = fill(tmp_path, job()).folder
    whole = read_scores(tmp_path)
    for places in ([tmp_path / "jobs"], [folder], [str(folder)], [tmp_path, folder]):
        pd.testing.assert_frame_equal(read_scores(*places), whole)
    parts = sorted(folder.glob("*.h5"))
    pd.testing.assert_frame_equal(read_scores(*parts), whole)
    alone = parts[0].rename(tmp_path / "alone.h5")
    assert read_scores(alone).model.tolist() == ["tiny_cnn"] * 2


def test_chosen_columns_come_with_what_tells_rows_apart(tmp_path):
    fill(tmp_path, job())
    shown = ["id", "model", "dataset", "method", "layer", "target", "grad_camo"]
    assert read_scores(tmp_path, columns=["grad_camo"]).columns.tolist() == shown
    with pytest.raises(StoreError, match="no column 'grad_cam'. Did you mean 'grad_camo'"):
        read_scores(tmp_path, columns=["grad_cam"])


@pytest.mark.slow
def test_layers_stand_in_the_order_of_the_model(tmp_path):
    depths = {"stem": 0.1, "blocks.9": 0.5, "blocks.10": 0.9, "head": 1.0, "input": 0.0}
    for layer in ("head", "blocks.10", "stem", "input", "blocks.9"):  # of several jobs
        fill(tmp_path, job(Condition(GRAD_CAM, layer, GRAD_CAMO)), depth=depths[layer])
    fill(tmp_path, job(Condition(GRAD_CAM, "aside", GRAD_CAMO)))  # whose depth is not known
    order = ["input", "stem", "blocks.9", "blocks.10", "head", "aside"]
    assert list(read_scores(tmp_path)["layer"].unique()) == order
    collect(tmp_path, tmp_path / "all.h5")
    assert list(read_scores(tmp_path / "all.h5")["layer"].unique()) == order


def test_scorers_of_different_jobs_share_a_row_by_id(tmp_path):
    first, second = job(), job(Condition(GRAD_CAM, "features.3", OTHER), part_rows=5)
    Writer(tmp_path, first, labels=LABELS).write(0, 2, table(first, 0, 2))
    other = table(second).iloc[::-1].assign(status=["no_positive_mass"] + ["ok"] * 4)
    Writer(tmp_path, second, labels=LABELS).write(0, 5, other)
    scores = read_scores(tmp_path).set_index("id")
    assert len(scores) == 5
    assert scores.loc["cell1", ["grad_camo", "other"]].tolist() == [0.1, 0.1]
    assert scores.grad_camo.isna().sum() == 3
    assert scores.loc["cell4", "status"] == "no_positive_mass"
    assert scores.label.dtype == np.int64
    assert scores.label.tolist() == [int(name[-1]) % 2 for name in scores.index]


def test_a_condition_computed_twice_appears_once_and_the_good_value_wins(tmp_path):
    condition = Condition(GRAD_CAM, "a", GRAD_CAMO)
    for of, status in ((job(condition), "out_of_memory"), (job(condition, part_rows=5), "ok")):
        writer = Writer(tmp_path, of, labels=LABELS)
        for start, stop in writer.missing():
            rows = table(of, start, stop).assign(status=status, reason=status)
            writer.write(start, stop, rows if status == "ok" else rows.assign(grad_camo=np.nan))
    scores = read_scores(tmp_path)
    assert scores.status.tolist() == ["ok"] * 5
    assert scores.grad_camo.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "column", "values"),
    [
        (
            [job(), job(base={**BASE, "heat": {"sign": "absolute"}})],
            "heat.sign",
            {"absolute", "positive"},
        ),
        (
            [
                job(Condition(replace(IG, options={"steps": s}), "input", GRAD_CAMO))
                for s in (8, 32)
            ],
            "method.steps",
            {8, 32},
        ),
        (
            [job(), job(base={**BASE, "model": {**BASE["model"], "weights": "def"}})],
            "model.weights",
            {"abc", "def"},
        ),
        (
            [
                job(Condition(GRAD_CAM, "a", replace(GRAD_CAMO, options={"epsilon": e})))
                for e in (0.1, 0.2)
            ],
            "scorer.grad_camo.epsilon",
            {0.1, 0.2},
        ),
        (
            [job(Condition(replace(GRAD_CAM, origin=f"a {v}"), "a", GRAD_CAMO)) for v in (1, 2)],
            "method.origin",
            {"a 1", "a 2"},
        ),
    ],
)
def test_settings_that_differ_become_a_column(jobs, column, values, tmp_path):
    for offset, each in enumerate(jobs):
        fill(tmp_path, each, offset=float(offset))
    fill(tmp_path, job(Condition(GRAD_CAM, "another", OTHER)))
    scores = read_scores(tmp_path)
    extra = [name for name in scores if "." in name and not name.endswith(".chance")]
    assert extra == [column]
    assert set(scores[scores.layer != "another"][column]) == values
    assert not scores.duplicated(["id", "method", "layer", column]).any()
    assert len(scores) == 15
    first = scores[scores[column].isin(values)].groupby(column).grad_camo.first()
    assert sorted(first) == [0.0, 1.0]


def test_what_is_kept_makes_no_other_row(tmp_path):
    fill(tmp_path, job())
    fill(tmp_path, job(base={**BASE, "keep": "native"}))
    scores = read_scores(tmp_path)
    assert len(scores) == 5
    assert "keep" not in scores


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_a_merged_file_reads_back_equal(suffix, tmp_path):
    fill(tmp_path, job(), Metadata_gap=None)
    fill(tmp_path, job(base={**BASE, "heat": {"sign": "absolute"}}), Metadata_flag=True)
    output = tmp_path / "new" / f"merged{suffix}"
    table_ = read_scores(tmp_path)
    assert collect(tmp_path, output) == len(table_)
    pd.testing.assert_frame_equal(read_scores(output), table_)
    pd.testing.assert_frame_equal(read_scores(output, output), table_)
    chosen = read_scores(output, columns=["grad_camo"])
    assert chosen.columns.tolist()[-2:] == ["heat.sign", "grad_camo"]
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_a_merged_file_is_plain_hdf5_or_csv(tmp_path):
    fill(tmp_path, job())
    collect(tmp_path, tmp_path / "all.h5")
    scores = read_scores(tmp_path)
    with h5py.File(tmp_path / "all.h5") as file:
        assert file["scores/grad_camo"][...].tolist() == scores.grad_camo.tolist()
        assert file["scores/Metadata_Plate"].asstr()[0] == "Ä1"
    collect(tmp_path, tmp_path / "all.csv")
    assert pd.read_csv(tmp_path / "all.csv").grad_camo.tolist() == scores.grad_camo.tolist()


def test_merged_files_that_contradict_each_other_are_refused(tmp_path):
    for offset, sign in enumerate(("positive", "absolute")):
        fill(tmp_path / sign, job(base={**BASE, "heat": {"sign": sign}}), offset=float(offset))
        collect(tmp_path / sign, tmp_path / f"{sign}.h5")
    with pytest.raises(StoreError, match="read the results folders"):
        read_scores(tmp_path / "positive.h5", tmp_path / "absolute.h5")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_the_merge_streams_the_same_table(suffix, tmp_path):
    sweep(tmp_path)
    whole = read_scores(tmp_path)
    collect(tmp_path, tmp_path / f"all{suffix}")
    pd.testing.assert_frame_equal(read_scores(tmp_path / f"all{suffix}"), whole)
    collect(tmp_path, tmp_path / f"few{suffix}", memory=1)  # nothing is held, a row at a time
    pd.testing.assert_frame_equal(read_scores(tmp_path / f"few{suffix}"), whole)


def test_types_and_gaps_survive_the_merge(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    kinds = ([1, 2], ["NA", None], [True])
    for (start, stop), values in zip(job().ranges, kinds, strict=True):
        flags = {"Metadata_flag": True} if start else {}
        part = table(job(), start, stop, Metadata_a=values, Metadata_Ä="é", **flags)
        writer.write(start, stop, part)
    for suffix in (".h5", ".parquet"):
        collect(tmp_path, tmp_path / f"all{suffix}")
        pd.testing.assert_frame_equal(read_scores(tmp_path / f"all{suffix}"), read_scores(tmp_path))
    assert read_scores(tmp_path)["Metadata_a"].isna().tolist() == [False, False, False, True, False]


@pytest.mark.slow
def test_rows_that_a_part_was_to_have_and_lacks_are_gaps_of_the_merge(tmp_path):
    """Known only once the rows are read: whole numbers, flags and text cannot hold them."""
    more = {"grad_camo.count": 3, "grad_camo.flat": True, "grad_camo.word": "NA"}
    one, other = (job(Condition(GRAD_CAM, "a", each), rows=4) for each in (GRAD_CAMO, OTHER))
    writer = Writer(tmp_path, one, labels=LABELS)
    for start, stop in one.ranges:
        writer.write(start, stop, table(one, start, stop, **more).iloc[: 2 - start // 2])
    fill(tmp_path, other)
    whole = read_scores(tmp_path)
    assert whole["grad_camo.count"].isna().tolist() == [False, False, False, True]
    assert whole["grad_camo.flat"].dtype == whole["grad_camo.count"].dtype == np.float64
    assert whole["grad_camo.word"].isna().tolist() == [False, False, False, True]
    for suffix in (".h5", ".parquet"):
        collect(tmp_path, tmp_path / f"all{suffix}")
        pd.testing.assert_frame_equal(read_scores(tmp_path / f"all{suffix}"), whole)


@pytest.mark.slow
def test_columns_of_whole_numbers_stay_so_where_another_job_lacks_them(tmp_path):
    one, other = (job(Condition(GRAD_CAM, "a", each)) for each in (GRAD_CAMO, OTHER))
    writer = Writer(tmp_path, one, labels=LABELS)
    for start, stop in one.ranges:
        writer.write(start, stop, table(one, start, stop, **{"grad_camo.count": 3}))
    fill(tmp_path, other)
    assert read_scores(tmp_path)["grad_camo.count"].dtype == np.int64
    for suffix in (".h5", ".parquet"):
        collect(tmp_path, tmp_path / f"all{suffix}")
        pd.testing.assert_frame_equal(read_scores(tmp_path / f"all{suffix}"), read_scores(tmp_path))


def test_a_merge_says_where_its_numbers_came_from(tmp_path):
    fill(tmp_path, job(), config="x: 1")
    collect(tmp_path, tmp_path / "all.h5")
    (told,) = provenance_of(tmp_path / "all.h5")["jobs"]
    assert (told["job"], told["config"], told["model"]) == (job().id, "x: 1", "tiny")
    assert json.loads(told["identity"])["rows"] == 5


def test_rebuilding_gives_the_same_bytes_and_leaves_nothing_beside(tmp_path):
    fill(tmp_path, job())
    for name in ("a.h5", "b.h5"):
        collect(tmp_path, tmp_path / "new" / name)
    assert (tmp_path / "new/a.h5").read_bytes() == (tmp_path / "new/b.h5").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.h5", "b.h5"]


@pytest.mark.slow
def test_xarray_and_pandas_open_the_products(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    sweep(tmp_path)
    collect(tmp_path, tmp_path / "all.h5")
    collect(tmp_path, tmp_path / "all.parquet")
    whole = read_scores(tmp_path)
    with xarray.open_dataset(tmp_path / "all.h5", engine="h5netcdf", group="scores") as opened:
        assert opened["grad_camo"].dims == ("row",)
        assert opened["grad_camo"].values[:5].tolist() == whole["grad_camo"][:5].tolist()
        assert opened["method"].values[0] in ("grad_cam", b"grad_cam")
    plain = pd.read_parquet(tmp_path / "all.parquet")
    pd.testing.assert_series_equal(plain["grad_camo"], whole["grad_camo"])


def test_xarray_opens_the_maps_of_a_part():
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    (part,) = DATA.glob("schema1/jobs/*/*.h5")
    group = "maps/grad_cam/features.3"
    named = {"phony_dims": "sort"}  # of the columns beside the maps, whose axis has no name
    with xarray.open_dataset(part, engine="h5netcdf", group=group, **named) as opened:
        assert opened["map"].dims == ("cell", "channel", "y", "x")
        assert (opened["map"] * opened["scale"]).dtype == np.float32


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    fill(tmp_path, job())
    monkeypatch.setattr(scores.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 10))
    with pytest.raises(StoreError, match=r"may need 0.06 MiB, and 0.00 MiB are free"):
        collect(tmp_path, tmp_path / "all.h5")
    assert not list(tmp_path.glob("all*"))


def test_a_damaged_part_stops_a_merge_with_its_name(tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StoreError, match="000000002-000000004.h5 is damaged"):
        collect(tmp_path, tmp_path / "all.h5")
    assert not list(tmp_path.glob("*all*"))


def test_a_table_that_takes_much_memory_is_not_read_back(tmp_path, capsys, monkeypatch):
    fill(tmp_path, job())
    monkeypatch.setattr("attrscore.cli.commands.results.MOST_BYTES", 100)
    assert main(["collect", str(tmp_path), "-o", str(tmp_path / "all.h5")]) == 0
    assert "no summary and no figure" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))


def test_a_csv_for_a_spreadsheet_holds_no_formula(tmp_path):
    fill(tmp_path, job())
    plain = read_scores(tmp_path)
    assert main(["collect", str(tmp_path), "-o", str(tmp_path / "all.csv"), "--excel"]) == 0
    safe = pd.read_csv(tmp_path / "all.csv")
    assert safe["grad_camo"].tolist() == plain["grad_camo"].tolist()
    table_ = pd.DataFrame({"id": ["=1+1", "-2", "b"], "@score": [-0.5, 1.0, 2.0]})
    made = scores.without_formulas(table_)
    assert made["id"].tolist() == ["'=1+1", "'-2", "b"]
    assert made["'@score"].tolist() == [-0.5, 1.0, 2.0]
    assert main(["collect", str(tmp_path), "-o", str(tmp_path / "all.h5"), "--excel"]) == 2
    with pytest.raises(StoreError, match="excel is of CSV"):
        collect(tmp_path, tmp_path / "all.h5", excel=True)


@pytest.mark.parametrize("path", [None, 3, ["results"]])
def test_what_is_no_path(path):
    with pytest.raises(StoreError, match="is no path; give folders or files"):
        read_scores(path)
