"""Files that are whole and mean nothing: a sentence from every reader, the same from all."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, LABELS, job, table

from attrscore.errors import StoreError
from attrscore.store import (
    Condition,
    Writer,
    collect,
    kept,
    provenance_of,
    read_crops,
    read_maps,
    read_part,
    read_scores,
    status_of,
    stored_crops,
)
from attrscore.store.verify import check_files

OF = job(Condition(GRAD_CAM, "a", GRAD_CAMO), base={**BASE, "keep": "native"})
READINGS = {"grad_camo": {"score": {"better": "higher", "range": [0, 1]}}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A job with maps, crops and failures."""
    folder = tmp_path_factory.mktemp("whole")
    writer = Writer(folder, OF, labels=LABELS, readings=READINGS)
    rng = np.random.default_rng(0)
    for start, stop in OF.ranges:
        rows = table(OF, start, stop)
        cells = stop - start
        crops = stored_crops(
            list(rows["id"]),
            rng.random((cells, 2, 8, 8)),
            {"cell": np.ones((cells, 8, 8))},
            stains=("DNA", "RNA"),
            spacing=(0.5, 0.5),
            classes=("a", "b"),
        )
        traces = rows[["method", "layer", "status", "reason"]].assign(traceback="here")
        maps = {("grad_cam", "a"): rng.random((cells, 1, 4, 4))}
        writer.write(start, stop, rows, maps, traces=traces.drop_duplicates(), crops=crops)
    writer.succeed({"seconds": 1.0})
    return folder


@pytest.fixture
def given(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "given")


def part_of(folder):
    return folder / "jobs" / OF.id / "000000002-000000004.h5"


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def put(path, **data):
    """Another dataset in the place of one."""

    def change(file):
        if path in file:
            del file[path]
        file.create_dataset(path, **data)

    return change


def without(path):
    return lambda file: file.__delitem__(path)


def text(*words):
    return np.array(words, dtype=h5py.string_dtype("utf-8", max(map(len, words))))


def empty(file):
    for name in list(file["scores"]):
        dtype = file["scores"][name].dtype
        del file["scores"][name]
        file["scores"].create_dataset(name, (0,), dtype)


def nameless(file):
    label = file["scores/label"].id
    h5py.h5d.create(file["scores"].id, b"\xff\xfe", label.get_type(), label.get_space())


def missing_ids(file):
    put("scores/id", data=text(b"cell2", b"NA"))(file)
    file["scores/id"].attrs["missing_value"] = "NA"


REFUSED_ROWS = {
    "schema inf": attribute("schema", np.inf),
    "schema nan": attribute("schema", np.nan),
    "schema a fraction": attribute("schema", 1.5),
    "schema text": attribute("schema", "1"),
    "schema zero": attribute("schema", 0),
    "schema several": attribute("schema", [1, 1]),
    "no content": lambda file: file.attrs.__delitem__("content"),
    "content a number": attribute("content", 3),
    "job a number": attribute("job", 3),
    "scores a dataset": put("scores", data=[1.0]),
    "text not UTF-8": put("scores/reason", data=text(b"\xff\xfe", b"a")),
    "id not UTF-8": put("scores/id", data=text(b"\xff\xfe", b"a")),
    "a name not UTF-8": nameless,
    "metadata not UTF-8": put("scores/Metadata_Plate", data=text(b"\xc3", b"a")),
    "no shape": put("scores/label", dtype="i8", data=h5py.Empty("i8")),
    "complex": put("scores/grad_camo", data=np.ones(2, complex)),
    "ids are numbers": put("scores/id", data=[1, 2]),
    "methods are numbers": put("scores/method", data=[1.0, 2.0]),
    "status a number": put("scores/status", data=[1, 2]),
    "ids missing": missing_ids,
    "reasons no JSON": put("scores/reasons", data=text(b"{", b"")),
    "reasons of numbers": put("scores/reasons", data=text(b"[[1, 2, 3]]", b"")),
    "reasons of two words": put("scores/reasons", data=text(b'[["gap", "iou"]]', b"")),
    "columns of two lengths": put("scores/label", data=[1]),
    "another layer": put("scores/layer", data=text(b"zz", b"zz")),
}
if np.dtype(np.longdouble).itemsize > 8:
    REFUSED_ROWS["long double"] = put("scores/grad_camo", data=np.ones(2, np.longdouble))
REFUSED_REST = {
    "identity no JSON": attribute("identity", "{"),
    "identity a list": attribute("identity", "[]"),
    "identity of another job": attribute("identity", json.dumps(job(rows=9).identity)),
    "maps a dataset": put("maps", data=[1.0]),
    "a layer of maps a dataset": put("maps/grad_cam/a", data=[1.0]),
    "short maps": put("maps/grad_cam/a/map", data=np.ones((1, 1, 4, 4), np.float16)),
    "long maps": put("maps/grad_cam/a/map", data=np.ones((3, 1, 4, 4), np.float16)),
    "flat maps": put("maps/grad_cam/a/map", data=np.ones((2, 4), np.float16)),
    "maps of integers": put("maps/grad_cam/a/map", data=np.ones((2, 1, 4, 4), np.int8)),
    "short scales": put("maps/grad_cam/a/scale", data=np.ones(1, np.float32)),
    "scales of text": put("maps/grad_cam/a/scale", data=text(b"1", b"2")),
    "no scales": without("maps/grad_cam/a/scale"),
    "no ids of maps": without("maps/id"),
    "ids of maps are numbers": put("maps/id", data=[1, 2]),
    "crops a dataset": put("crops", data=[1.0]),
    "crops of floats": put("crops/image", data=np.ones((2, 2, 8, 8), np.float32)),
    "short crops": put("crops/image", data=np.ones((1, 2, 8, 8), np.uint8)),
    "flat crops": put("crops/image", data=np.ones((2, 8), np.uint8)),
    "ends of other channels": put("crops/low", data=np.ones((2, 3), np.float32)),
    "no ends": without("crops/high"),
    "regions of numbers": put("crops/regions/cell", data=np.ones((2, 8, 8), np.uint8)),
    "regions of another size": put("crops/regions/cell", data=np.ones((2, 4, 4), bool)),
    "no ids of crops": without("crops/id"),
    "stains a number": lambda file: attribute("stains", "3")(file["crops"]),
    "stains of another number": lambda file: attribute("stains", '["DNA"]')(file["crops"]),
    "spacing text": lambda file: attribute("spacing", '["a", "b"]')(file["crops"]),
    "spacing negative": lambda file: attribute("spacing", "[-1, 1]")(file["crops"]),
    "spacing of one axis": lambda file: attribute("spacing", "[1]")(file["crops"]),
    "classes a mapping": lambda file: attribute("classes", "{}")(file["crops"]),
    "classes no JSON": lambda file: attribute("classes", "{")(file["crops"]),
    "no stains": lambda file: file["crops"].attrs.__delitem__("stains"),
    "failures a dataset": put("failures", data=[1.0]),
    "failures without a reason": without("failures/reason"),
    "failures of two lengths": put("failures/reason", data=text(b"a", b"b", b"c")),
}
ACCEPTED = {
    "big-endian": put("scores/grad_camo", data=np.array([0.2, 0.3], ">f8")),
    "big-endian labels": put("scores/label", data=np.array([0, 1], ">i4")),
    "an unknown kind": lambda file: file["scores/Metadata_Plate"].attrs.__setitem__("kind", "new"),
    "a kind of numbers": lambda file: file["scores/label"].attrs.__setitem__("kind", [1, 2]),
    "an unknown attribute": attribute("more", [1.0, 2.0]),
    "an unknown group": lambda file: file.create_group("later"),
}


def spoil(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def problems(folder):
    said = []
    check_files(said.append, paths=[str(folder / "jobs" / OF.id)], skip=[])
    return [each for one in said if "done" in one for each in one["problems"]]


def sentence(read, *arguments, **options):
    """What a reader says, empty where it reads; nothing but a sentence may be raised."""
    said = ""
    try:
        read(*arguments, **options)
    except StoreError as error:
        said = str(error)
    assert "\n" not in said
    return said


def every_reader(folder):
    part = part_of(folder)
    for read in (read_part, read_crops, provenance_of, status_of, kept):
        sentence(read, folder if read in (status_of, kept) else part)
    sentence(read_maps, folder, "grad_cam", "a")
    for each in kept(folder) if not sentence(kept, folder) else ():
        sentence(each.read, ["cell2", "cell3"])


def same_everywhere(folder, tmp_path, suffixes=(".h5",)):
    """What read_scores says, and that collect says the same."""
    said = sentence(read_scores, folder)
    for suffix in suffixes:
        other = sentence(collect, folder, tmp_path / f"all{suffix}")
        assert bool(other) == bool(said)
        if not said:
            pd.testing.assert_frame_equal(
                read_scores(tmp_path / f"all{suffix}"), read_scores(folder)
            )
    return said


@pytest.mark.slow
@pytest.mark.parametrize("change", REFUSED_ROWS.values(), ids=REFUSED_ROWS)
def test_rows_without_meaning_are_refused_by_all_readers(change, given, tmp_path):
    spoil(part_of(given), change)
    assert str(given) in same_everywhere(given, tmp_path)
    every_reader(given)
    assert problems(given)


@pytest.mark.slow
@pytest.mark.parametrize("change", REFUSED_REST.values(), ids=REFUSED_REST)
def test_maps_crops_and_failures_without_meaning_spoil_no_rows(change, given, tmp_path):
    spoil(part_of(given), change)
    assert same_everywhere(given, tmp_path) == ""
    assert len(read_scores(given)) == 5
    every_reader(given)
    assert problems(given)


@pytest.mark.slow
@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_what_another_program_may_write_is_read(change, given, whole, tmp_path):
    spoil(part_of(given), change)
    assert same_everywhere(given, tmp_path, (".h5", ".parquet")) == ""
    pd.testing.assert_frame_equal(read_scores(given), read_scores(whole), check_dtype=False)
    every_reader(given)
    assert problems(given) == []


def test_a_part_without_a_row_lacks_its_cells(given, tmp_path):
    spoil(part_of(given), empty)
    assert same_everywhere(given, tmp_path) == ""
    assert read_scores(given)["id"].tolist() == ["cell0", "cell1", "cell4"]
    assert {each["kind"] for each in problems(given)} == {"missing"}


@pytest.mark.parametrize(
    "change",
    [
        {"readings": []},
        {"readings": {"grad_camo": []}},
        {"readings": {"grad_camo": {"score": "higher"}}},
        {"readings": {"grad_camo": {"score": {"range": 3}}}},
        {"readings": {"grad_camo": {"score": {"better": "maybe"}}}},
        {"labels": ["tiny"]},
        {"runs": {}},
        {"runs": [3]},
        {"parts": []},
        {"parts": {"000000000-000000002.h5": 3}},
        {"provenance": 3},
        {"identity": []},
        {"identity": {"schema": 1}},
    ],
    ids=str,
)
def test_a_job_json_of_wrong_types_is_one_sentence(change, given, tmp_path):
    path = given / "jobs" / OF.id / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "job.json" in same_everywhere(given, tmp_path)
    every_reader(given)
    assert problems(given)


def test_readings_of_a_later_kind_are_left_out(given):
    path = given / "jobs" / OF.id / "job.json"
    known = json.loads(path.read_text())
    known["readings"]["grad_camo"]["score"]["colour"] = "red"
    path.write_text(json.dumps(known))
    assert read_scores(given).attrs["readings"] == READINGS
