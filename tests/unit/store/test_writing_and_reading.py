"""The store: what names a result, what is on disk, and the table that comes back."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, LABELS, OTHER, fill, job, table

from attrscore.core.columns import KEY_COLUMNS
from attrscore.errors import ConfigError, StoreError
from attrscore.store import (
    Condition,
    Job,
    Plugin,
    Writer,
    collect,
    folders_of,
    identify,
    jobs_like,
    maps,
    missing_conditions,
    read_maps,
    read_scores,
)
from attrscore.store import commit as committing
from attrscore.store.columns import escape, unescape


def missing(folder, of):
    return missing_conditions(jobs_like(folder, of), of)


# What names a result


def test_equal_values_have_equal_names_however_they_are_spelled():
    assert identify({"a": (1, 2.5), "b": np.int64(3)}) == identify({"b": 3, "a": [1, 2.5]})
    assert len(identify({})) == 16
    assert identify({"a": 1}) != identify({"a": 1.0})
    assert Plugin("a", options={"x": 1}) != Plugin("a", options={"x": True})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_cannot_be_named_is_refused(value):
    with pytest.raises(ConfigError, match=r"'steps\.a\[0\]'"):
        identify({"steps": {"a": [value]}})


def test_a_job_is_its_base_conditions_and_rows():
    one, two = Condition(GRAD_CAM, "a", GRAD_CAMO), Condition(IG, "input", GRAD_CAMO)
    assert job(one, two).id == job(two, one).id
    ids = {job().id, job(one).id, job(one, two).id, job(rows=6).id, job(part_rows=3).id}
    assert len(ids | {job(base={**BASE, "seed": 1}).id}) == 6
    assert Job.from_identity(json.loads(json.dumps(job(one, two).identity))).id == job(one, two).id
    assert job().ranges == ((0, 2), (2, 4), (4, 5))


def test_one_key_stands_for_one_plugin_in_a_job():
    with pytest.raises(ConfigError, match="Two different scorers are called 'grad_camo'"):
        job(
            Condition(GRAD_CAM, "a", GRAD_CAMO),
            Condition(GRAD_CAM, "b", replace(GRAD_CAMO, options={"epsilon": 0.1})),
        )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a%2Fb", "%", "é.3", "%2E"])
def test_every_name_survives_hdf5(name, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group(escape(name))
        assert [unescape(link) for link in file] == [name]


# Writing


def test_a_second_run_computes_only_what_is_missing(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    writer.write(2, 4, table(job(), 2, 4))
    assert Writer(tmp_path, job(), labels=LABELS).missing() == [(0, 2), (4, 5)]
    assert read_scores(tmp_path).id.tolist() == ["cell2", "cell3"]


def test_a_part_that_exists_is_never_overwritten(tmp_path):
    writer = fill(tmp_path, job())
    path = writer.folder / "000000000-000000002.h5"
    before = path.read_bytes()
    assert writer.write(0, 2, table(job(), 0, 2, offset=1.0)) == path
    assert path.read_bytes() == before


def test_the_same_work_gives_the_same_bytes(tmp_path):
    kept = {("grad_cam", "features.3"): np.ones((2, 1, 3, 3))}
    parts = []
    for place in ("a", "b"):
        writer = Writer(tmp_path / place, job(), labels=LABELS, config="x: 1")
        parts.append(writer.write(0, 2, table(job(), 0, 2), kept).read_bytes())
        time.sleep(1.1)  # HDF5 counts time in seconds
    assert parts[0] == parts[1]


def test_adding_to_a_finished_sweep_computes_that_alone(tmp_path):
    first, layer = (Condition(GRAD_CAM, name, GRAD_CAMO) for name in ("a", "b"))
    scorer, method = Condition(GRAD_CAM, "a", OTHER), Condition(IG, "input", GRAD_CAMO)
    done = job(first)
    fill(tmp_path, done)
    asked = job(method, first, layer, scorer)
    assert missing(tmp_path, asked) == (method, layer, scorer)
    fill(tmp_path, job(method, layer, scorer))
    assert missing(tmp_path, asked) == ()
    assert len(folders_of(jobs_like(tmp_path, asked), asked)) == 2
    scores = read_scores(tmp_path)
    assert len(scores) == 3 * 5
    assert not scores.duplicated(["id", "method", "layer"]).any()
    assert scores[scores.layer == "a"].other.notna().all()
    assert scores[scores.layer == "b"].other.isna().all()


def test_only_complete_work_on_the_same_base_counts(tmp_path):
    condition = job().conditions
    assert missing(tmp_path / "nowhere", job()) == condition
    fill(tmp_path, job(base={**BASE, "seed": 1}))
    Writer(tmp_path, job(), labels=LABELS).write(0, 2, table(job(), 0, 2))
    assert missing(tmp_path, job()) == condition
    fill(tmp_path, job(base={**BASE, "keep": "native"}))
    assert missing(tmp_path, job()) == ()
    assert missing(tmp_path, job(base={**BASE, "keep": "all"})) == condition


def test_job_json_keeps_the_first_config_and_the_last_labels(tmp_path):
    folder = fill(tmp_path, job(), config="first").folder
    Writer(tmp_path, job(), labels={**LABELS, "model": "renamed"}, config="second")
    told = json.loads((folder / "job.json").read_text())
    assert (told["config"], told["labels"]["model"]) == ("first", "renamed")
    assert read_scores(tmp_path).model.unique() == ["renamed"]


def test_failure_is_recorded_and_forgotten_on_success(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    error = ValueError("bad cell")
    error.add_note("in cell 3")
    writer.fail(error)
    told = json.loads((writer.folder / "failed.json").read_text())
    assert (told["type"], told["message"], told["notes"]) == (
        "ValueError",
        "bad cell",
        ["in cell 3"],
    )
    writer.succeed()
    writer.succeed()
    assert not (writer.folder / "failed.json").exists()


def test_leftovers_of_dead_processes_go_and_others_stay(tmp_path):
    writer = fill(tmp_path, job())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, alive = committing._HOST, os.getppid()
    names = [f".a.h5.{host}.{dead.pid}.tmp", ".b.h5.elsewhere.1.tmp", ".c.h5.elsewhere.1.tmp"]
    names += [f".d.h5.{host}.{alive}.tmp", f".e.h5.{host}.{os.getpid()}.tmp"]
    for name in names:
        (writer.folder / name).write_bytes(b"half")
    os.utime(writer.folder / names[1], (0, 0))
    Writer(tmp_path, job(), labels=LABELS)
    assert {path.name for path in writer.folder.glob(".*.tmp")} == {names[2], names[3]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.drop(columns="layer"), "lacks layer"),
        (lambda t: t.assign(layer="features.9"), "no condition for grad_cam at features.9"),
        (lambda t: t.assign(id="same"), "several rows for one cell"),
        (lambda t: pd.concat([t, t.assign(id=["x", "y"])]), "4 cells in a range of 2"),
        (lambda t: t.assign(reason="a\0b"), "'reason' holds text with a NUL"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(change, sentence, tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    with pytest.raises(StoreError, match=sentence):
        writer.write(0, 2, change(table(job(), 0, 2)))
    assert writer.missing() == list(job().ranges)


def test_ranges_and_maps_that_do_not_fit_are_refused(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    with pytest.raises(StoreError, match="0-3 is no range of job"):
        writer.write(0, 3, table(job(), 0, 3))
    with pytest.raises(StoreError, match="Maps of grad_cam at features.3 must have the shape"):
        writer.write(0, 2, table(job(), 0, 2), {("grad_cam", "features.3"): np.ones((1, 1, 3, 3))})


def test_a_full_disk_leaves_a_sentence_and_nothing_else(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    writer.write(0, 2, table(job(), 0, 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match="free some space and run the same command again"):
            writer.write(2, 4, table(job(), 2, 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name for p in writer.folder.iterdir()} == {"job.json", "000000000-000000002.h5"}
    assert len(read_scores(tmp_path)) == 2


def test_a_read_only_folder_says_what_to_do(tmp_path, monkeypatch):
    writer = Writer(tmp_path, job(), labels=LABELS)

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(committing.os, "open", refuse)
        with pytest.raises(StoreError, match=r"not writable; choose another with results="):
            writer.write(0, 2, table(job(), 0, 2))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        Writer(tmp_path / "file", job(), labels=LABELS)


# Columns


def test_columns_of_every_kind_come_back(tmp_path):
    given = pd.DataFrame(
        {
            "Metadata_text": ["é", None, "NA", "", "a/b"],
            "Metadata_empty": [""] * 5,
            "Metadata_nothing": pd.Series([None] * 5, dtype=object),
            "Metadata_mixed": pd.Series([1, "two", 3.5, None, True], dtype=object),
            "Metadata_flag": [True, False, True, False, True],
            "Metadata_int": pd.Series([1, 2, 3, 4, 2**62], dtype=object),
            "Metadata_gap": pd.array([1, None, 3, 4, 5], dtype="Int64"),
            "Metadata_group": pd.Categorical(["a", "b", None, "a", "a"]),
            "Metadata_a/b": np.arange(5, dtype=np.uint8),
            "Metadata_.": np.float32([0.1, np.nan, np.inf, -0.0, 1]),
            "Metadata_bad_name": pd.Series(["\udcff"] * 5, dtype=object),
            "Metadata_day": pd.to_datetime(["2024-01-02"] * 5),
        }
    )
    writer = Writer(tmp_path, job(part_rows=5), labels=LABELS)
    writer.write(0, 5, table(job()).join(given))
    got = read_scores(tmp_path)
    text = lambda name: [None if pd.isna(v) else v for v in got[f"Metadata_{name}"]]  # noqa: E731
    assert text("text") == ["é", None, "NA", "", "a/b"]
    assert text("empty") == [""] * 5
    assert text("nothing") == [None] * 5
    assert text("mixed") == ["1", "two", "3.5", None, "True"]
    assert text("group") == ["a", "b", None, "a", "a"]
    assert text("bad_name") == ["\\udcff"] * 5
    assert text("day") == ["2024-01-02 00:00:00"] * 5
    assert got["Metadata_flag"].dtype == bool
    assert got["Metadata_int"].dtype == np.int64
    assert got["Metadata_int"].iloc[-1] == 2**62
    assert got["Metadata_gap"].isna().tolist() == [False, True, False, False, False]
    for name in ("Metadata_a/b", "Metadata_."):
        pd.testing.assert_series_equal(got[name], given[name])


def test_parts_may_disagree_about_a_type(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    for (start, stop), values in zip(job().ranges, [[1, 2], ["x", None], [True]], strict=True):
        writer.write(start, stop, table(job(), start, stop, Metadata_a=values))
    assert read_scores(tmp_path)["Metadata_a"].fillna("-").tolist() == ["1", "2", "x", "-", "True"]


def test_long_reasons_are_cut(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS)
    writer.write(0, 2, table(job(), 0, 2).assign(reason="why " * 1000))
    assert read_scores(tmp_path).reason.str.len().tolist() == [500, 500]


def test_columns_are_plain_checked_datasets_that_tell_their_kind(tmp_path):
    writer = Writer(tmp_path, job(), labels=LABELS, carried=["area"])
    path = writer.write(0, 2, table(job(), 0, 2, area=3.0, completeness=0.1))
    with h5py.File(path) as file:
        kinds = {name: each.attrs["kind"].decode() for name, each in file["scores"].items()}
        assert all(each.fletcher32 and each.ndim == 1 for each in file["scores"].values())
        assert json.loads(file.attrs["identity"])["rows"] == 5
    assert kinds["id"] == "key"
    assert kinds["grad_camo.chance"] == kinds["completeness"] == "score"
    assert kinds["area"] == kinds["Metadata_Plate"] == "metadata"


# The table


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


# Merged files


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


# Maps


@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("space", [(6, 5), (3, 6, 5)])
def test_maps_come_back_signed_at_any_magnitude(magnitude, space):
    given = np.random.default_rng(0).normal(size=(4, 2, *space)) * magnitude
    given[1] = 0
    given[2] *= np.geomspace(1e-6, 1, given[2].size).reshape(given[2].shape)
    stored, scale = maps.encode(given)
    assert (stored.dtype, scale.dtype, scale[1]) == (np.float16, np.float32, 1)
    np.testing.assert_allclose(maps.decode(stored, scale), given, rtol=1e-3)


def test_nonfinite_maps_stay_so_and_leave_the_rest_alone():
    given = np.array([[[np.nan, 1e-6, np.inf]], [[-np.inf, 0, 2]]])
    np.testing.assert_allclose(maps.decode(*maps.encode(given)), given, rtol=1e-3)


def test_kept_maps_are_found_by_cell(tmp_path):
    of = job(base={**BASE, "keep": "native"})
    kept = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    writer = Writer(tmp_path, of, labels=LABELS)
    for start, stop in of.ranges[:2]:
        part = {("grad_cam", "features.3"): kept[start:stop]}
        path = writer.write(start, stop, table(of, start, stop), part)
    last = {("grad_cam", "features.3"): kept[4:4]}
    writer.write(4, 5, table(of, 4, 5), last, ids=[])
    ids, got = read_maps(tmp_path, "grad_cam", "features.3")
    assert ids == ["cell0", "cell1", "cell2", "cell3"]
    np.testing.assert_allclose(got, kept[:4], rtol=1e-3, atol=1e-6)
    ids, some = read_maps(tmp_path, "grad_cam", "features.3", ids=["cell3", "cell0"], model="tiny")
    assert ids == ["cell3", "cell0"]
    assert (some == got[[3, 0]]).all()
    with h5py.File(path) as file:
        group = file["maps/grad_cam/features.3"]
        assert [d.label for d in group["map"].dims] == ["cell", "channel", "y", "x"]
        assert [d.keys() for d in group["map"].dims] == [["cell"], ["channel"], ["y"], ["x"]]
    with pytest.raises(StoreError, match="is kept for cell4"):
        read_maps(tmp_path, "grad_cam", "features.3", ids=["cell0", "cell4"])


def test_maps_that_are_not_there_or_not_one_are_refused(tmp_path):
    fill(tmp_path, job())
    with pytest.raises(StoreError, match="no grad_cam at features.4. Did you mean 'grad_cam at f"):
        read_maps(tmp_path, "grad_cam", "features.4")
    with pytest.raises(StoreError, match="keeps no maps .* compute them with keep=native"):
        read_maps(tmp_path, "grad_cam", "features.3")
    for seed, label in ((0, "tiny"), (1, "tiny"), (0, "other")):
        base = {**BASE, "keep": "native", "seed": seed}
        of = job(base=base if label == "tiny" else {**base, "model": {"name": "other"}})
        writer = Writer(tmp_path, of, labels={**LABELS, "model": label})
        kept = {("grad_cam", "features.3"): np.ones((2, 1, 2, 2))}
        writer.write(0, 2, table(of, 0, 2), kept)
    with pytest.raises(StoreError, match="of other, tiny; choose one with model="):
        read_maps(tmp_path, "grad_cam", "features.3")
    with pytest.raises(StoreError, match="differ in seed; read the folder of one job"):
        read_maps(tmp_path, "grad_cam", "features.3", model="tiny")
    assert len(read_maps(tmp_path, "grad_cam", "features.3", model="other")[0]) == 2


# What cannot be read


def test_places_that_hold_nothing_say_so(tmp_path):
    with pytest.raises(StoreError, match="There is no file or folder"):
        read_scores(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is no results folder"):
        read_scores(tmp_path)
    with pytest.raises(StoreError, match="Name a results folder"):
        read_scores()
    Writer(tmp_path, job(), labels=LABELS)
    with pytest.raises(StoreError, match="holds no results yet"):
        read_scores(tmp_path)
    with pytest.raises(StoreError, match=r"must end in one of .h5, .csv, .parquet"):
        collect(tmp_path, tmp_path / "all.xlsx")
    (tmp_path / "all.csv").write_text("id\n1\n")
    with pytest.raises(StoreError, match="CSV forgets the types"):
        read_scores(tmp_path / "all.csv")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(StoreError, match="was not written by attrscore"):
        read_scores(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="damaged or no Parquet file"):
        read_scores(tmp_path / "b.parquet")


def spoil(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def put(name, make):
    def change(file):
        del file["scores"][name]
        make(file["scores"], name)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.attrs.__delitem__("schema"), "not written by attrscore"),
        (lambda f: f.attrs.__setitem__("schema", 2), "newer attrscore .schema 2.* upgrade with"),
        (lambda f: f.attrs.__setitem__("job", "0" * 16), "belongs to another job"),
        (lambda f: f.__delitem__("scores"), "no group 'scores'"),
        (lambda f: f["scores"].__delitem__("id"), "lacks the columns id"),
        (put("grad_camo", lambda g, n: g.create_dataset(n, data=[1.0])), "different lengths"),
        (put("grad_camo", lambda g, n: g.create_dataset(n, data=[[1.0]] * 2)), "not a column"),
        (put("label", lambda g, n: g.create_dataset(n, data=["a", "b"])), "only numbers and text"),
        (
            put("label", lambda g, n: g.__setitem__(n, h5py.ExternalLink("/etc/passwd", "x"))),
            "is a link to elsewhere",
        ),
        (
            put("label", lambda g, n: g.__setitem__(n, h5py.SoftLink("/x"))),
            "is a link to elsewhere",
        ),
        (
            put("label", lambda g, n: g.create_dataset(n, (2,), "f8", external=[("x", 0, 16)])),
            "data from other files",
        ),
        (
            put(
                "label",
                lambda g, n: g.create_dataset(n, (10**12,), dtype="f8", chunks=(1000,)),
            ),
            "claims more data than the file can hold",
        ),
        (put("label", lambda g, n: g.create_group(n)), "damaged"),
    ],
)
def test_parts_that_cannot_be_trusted_are_refused(change, sentence, tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    spoil(path, change)
    with pytest.raises(StoreError, match=sentence) as caught:
        read_scores(tmp_path)
    assert str(path) in str(caught.value)


def test_virtual_datasets_are_refused(tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (2,))
    spoil(path, put("label", lambda g, n: g.create_virtual_dataset(n, layout)))
    with pytest.raises(StoreError, match="data from other files"):
        read_scores(tmp_path)


def test_truncated_and_foreign_files_are_named_with_what_to_do(tmp_path):
    path = fill(tmp_path, job()).folder / "000000002-000000004.h5"
    data = path.read_bytes()
    for content in (data[: len(data) // 2], data[:1000], b"", b"no hdf5"):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="delete it and run the same command again"):
            read_scores(tmp_path)


def test_a_damaged_job_json_is_named_and_written_anew(tmp_path):
    told = fill(tmp_path, job()).folder / "job.json"
    for content in ("{", '{"identity": {}}', "[]", '{"identity": {"schema": 9}}'):
        told.write_text(content)
        with pytest.raises(StoreError, match=r"job\.json"):
            read_scores(tmp_path)
        assert missing(tmp_path, job()) == job().conditions
        Writer(tmp_path, job(), labels=LABELS)
        assert len(read_scores(tmp_path)) == 5


def test_reading_needs_no_torch():
    unwanted = "{'torch', 'hydra', 'matplotlib'}"
    code = f"import sys, attrscore.store; sys.exit(bool({unwanted} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
