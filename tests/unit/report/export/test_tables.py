"""Scores with a row a cell: names, joins onto profiles, and what the libraries themselves read."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from results import BASE, GRAD_CAM, GRAD_CAMO, IG, OTHER, fill, job

from attrscore.cli.main import main
from attrscore.errors import ConfigError, DataError, StoreError
from attrscore.report.export.tables import (
    join,
    keys_of,
    read_profiles,
    to_anndata,
    widened,
    write_anndata,
    write_table,
)
from attrscore.store import Condition, read_scores, table_and_kinds
from attrscore.store.commit import new_file, new_folder

SCORE = "Metadata_attrscore_grad_cam_features.3_grad_camo"
WELLS = {"Metadata_Well": [f"A0{n}" for n in range(5)], "Metadata_Site": [1, 2, 3, 4, 5]}

# anndata and pycytominer ask pandas 3 for options that it deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*future.infer_string"),
    pytest.mark.filterwarnings("ignore:.*mode.copy_on_write"),
    pytest.mark.filterwarnings("ignore:.*mode.chained_assignment"),
]


@pytest.fixture
def run(tmp_path):
    """Five cells; grad_cam at two layers, integrated_gradients on the input."""
    layers = [("features.3", GRAD_CAM), ("features.6", GRAD_CAM), ("input", IG)]
    of = job(*(Condition(method, layer, GRAD_CAMO) for layer, method in layers))
    folder = tmp_path / "my results µ"
    writer = fill(folder, of, config="seed: 0")
    assert not writer.missing()
    return folder


def wide_of(run, **options):
    return widened(*table_and_kinds(run), **options)


def profiles(tmp_path, **columns):
    table = pd.DataFrame({"Metadata_cell": [f"cell{n}" for n in (3, 0, 1, 9)], **columns})
    table["Cells_AreaShape_Area"] = [1.5, np.nan, 3.25, 4.0]
    path = tmp_path / "profiles.csv"
    table.to_csv(path, index=False)
    return path, table


def test_names_and_numbers_are_those_of_the_results(run):
    wide = wide_of(run)
    table = wide.table
    assert table["Metadata_attrscore_id"].tolist() == [f"cell{n}" for n in range(5)]
    assert table["Metadata_Plate"].tolist() == ["Ä1"] * 5
    scores = read_scores(run)
    for column in wide.columns:
        if column.method:
            told = scores[(scores["method"] == column.method) & (scores["layer"] == column.layer)]
            expected = told.set_index("id")[column.score]
            found = table.set_index("Metadata_attrscore_id")[column.name]
            pd.testing.assert_series_equal(
                found, expected, check_names=False, check_dtype=False, check_index_type=False
            )
            whole = f"Metadata_attrscore_{column.method}_{column.layer}_{column.score}"
            assert column.whole == whole
            assert column.name == whole if len(whole) < 60 else column.name.endswith(column.score)
    assert {c.score for c in wide.columns} >= {"status", "grad_camo", "grad_camo.chance"}
    assert all(name.startswith("Metadata_") for name in table)


@pytest.mark.slow
def test_models_targets_and_settings_are_in_the_names_where_there_are_several(run):
    one = Condition(GRAD_CAM, "features.3", GRAD_CAMO)
    other = {**BASE, "model": {**BASE["model"], "weights": "def"}}
    fill(run, job(one, base=other), labels={"model": "resnet", "dataset": "phantom"}, offset=5.0)
    fill(run, job(one, base={**BASE, "heat": {"sign": "absolute"}}), offset=9.0)
    wide = wide_of(run, scores=["grad_camo"])
    table = wide.table
    start = "Metadata_attrscore_"
    names = {column.whole: column.name for column in wide.columns}
    assert max(map(len, names.values())) < 60
    for of, value in (("tiny_heat.sign=positive", 0.0), ("tiny_heat.sign=absolute", 9.0)):
        assert table[names[f"{start}{of}_grad_cam_features.3_grad_camo"]][0] == value
    assert table[names[f"{start}resnet_heat.sign=positive_grad_cam_features.3_grad_camo"]][0] == 5.0
    assert table[f"{start}resnet_predicted"].tolist() == [1] * 5
    assert not any(name.endswith("grad_camo.chance") for name in table)


def test_cells_of_one_name_in_two_datasets_are_two_rows(run):
    other = {**BASE, "dataset": {"name": "phantom", "fingerprint": "f1"}}
    one = Condition(GRAD_CAM, "features.3", GRAD_CAMO)
    fill(run, job(one, base=other), labels={"model": "tiny", "dataset": "other"}, offset=5.0)
    table = wide_of(run).table
    assert len(table) == 10
    assert table["Metadata_attrscore_dataset"].value_counts().to_dict() == {
        "phantom": 5,
        "other": 5,
    }
    by_cell = table.set_index(["Metadata_attrscore_dataset", "Metadata_attrscore_id"])[SCORE]
    assert by_cell["other", "cell2"] == 5.2
    assert by_cell["phantom", "cell2"] == 0.2


def test_a_score_that_only_another_method_has_makes_no_empty_column(run):
    fill(run, job(Condition(IG, "input", OTHER)))
    names = list(wide_of(run).table)
    assert "Metadata_attrscore_integrated_gradients_input_other" in names
    assert "Metadata_attrscore_grad_cam_features.3_other" not in names


def test_an_unknown_score_is_suggested(run):
    with pytest.raises(ConfigError, match="no score 'grad_cam'. Did you mean 'grad_camo'"):
        wide_of(run, scores=["grad_cam"])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_the_table_reads_back_as_the_same_numbers(run, suffix, tmp_path):
    path = tmp_path / f"s{suffix}"
    assert main(["export", str(run), "--to", "csv", "-o", str(path)]) == 0
    read = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    expected = wide_of(run).table
    assert list(read) == list(expected)
    pd.testing.assert_frame_equal(read, expected, check_dtype=False, check_exact=True)
    if suffix == ".parquet":
        told = json.loads(pq.read_schema(path).metadata[b"attrscore.export"])
        (made,) = told["jobs"].values()
        assert made["config"] == "seed: 0"
        assert json.loads(made["identity"])["rows"] == 5


@pytest.mark.slow
def test_a_merged_file_is_exported_as_its_folder_is(run, tmp_path):
    for suffix in (".h5", ".parquet"):
        merged, out = tmp_path / f"merged{suffix}", tmp_path / f"out{suffix}.parquet"
        assert main(["collect", str(run), "-o", str(merged), "--figures", "none"]) == 0
        assert main(["export", str(merged), "--to", "parquet", "-o", str(out)]) == 0
        pd.testing.assert_frame_equal(
            pd.read_parquet(out), wide_of(run).table, check_dtype=False, check_like=True
        )
        told = json.loads(pq.read_schema(out).metadata[b"attrscore.export"])
        assert len(told["jobs"]) == 1


def test_nothing_is_overwritten_unless_asked(run, capsys):
    assert main(["export", str(run), "--to", "csv"]) == 0
    path = run / "export" / "scores.csv"
    path.write_text("mine")
    assert main(["export", str(run), "--to", "csv"]) == 2
    assert "exists; say --force" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["export", str(run), "--to", "csv", "--force"]) == 0
    assert path.read_text() != "mine"


def test_what_fails_on_the_way_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()

    def fail(aside) -> None:
        aside.mkdir() if aside.name.startswith(".b") else aside.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "a") as aside:
        fail(aside)
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "b") as aside:
        fail(aside)
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with new_folder(tmp_path / "b") as aside:
        aside.mkdir()
        (aside / "new").write_text("whole")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["new"]


@pytest.mark.slow
def test_methods_and_layers_are_chosen_and_twins_stay_out(run, tmp_path, capsys):
    one = Condition(GRAD_CAM, "features.3", GRAD_CAMO)
    random = {**BASE, "model": {**BASE["model"], "options": {"randomize": "all"}}, "seed": 7}
    fill(run, job(one, base=random), offset=5.0)
    arguments = ["export", str(run), "--to", "csv", "--force", "--scores", "grad_camo"]

    def names(*more):
        assert main([*arguments, *more, "-o", str(tmp_path / "s.csv")]) == 0
        read = pd.read_csv(tmp_path / "s.csv")
        return [name for name in read if name.endswith("_grad_camo")]

    start = "Metadata_attrscore_"
    both = [f"{start}grad_cam_features.3_grad_camo", f"{start}grad_cam_features.6_grad_camo"]
    assert names() == [*both, f"{start}integrated_gradients_input_grad_camo"]
    assert names("--method", "grad_cam") == both
    assert names("--layer", "features.6,input") == [*both[1:], names()[-1]]
    assert len(names("--method", "grad_cam", "--twins")) == 3
    assert main([*arguments, "--method", "gradcam"]) == 2
    assert "Did you mean 'grad_cam'" in capsys.readouterr().err


def test_names_are_short_enough_for_any_database_and_are_said_where_they_were_cut(tmp_path, capsys):
    layers = [f"features.denseblock4.denselayer{n}.norm.very.long" for n in (15, 16)]
    fill(tmp_path / "run", job(*(Condition(GRAD_CAM, name, GRAD_CAMO) for name in layers)))
    out = tmp_path / "s.csv"
    assert main(["export", str(tmp_path / "run"), "--to", "csv", "-o", str(out)]) == 0
    assert "names are longer than 59 characters" in " ".join(capsys.readouterr().err.split())
    names = list(pd.read_csv(out))
    assert max(map(len, names)) < 60
    assert len(set(names)) == len(names)
    said = pd.read_csv(tmp_path / "s.columns.csv").set_index("name")
    assert set(said.index) < set(names)
    cut = said[said["whole"] != said.index]
    assert set(cut["layer"]) == set(layers)
    assert all(name.endswith(f"_{row.score}") for name, row in cut.iterrows())


# Onto profiles


def test_scores_join_profiles_by_their_keys_and_both_remainders_are_told(run, tmp_path, capsys):
    path, table = profiles(tmp_path)
    out = tmp_path / "out.parquet"
    on = "Metadata_attrscore_id=Metadata_cell"
    arguments = ["export", str(run), "--to", "parquet", "--profiles", str(path), "--on", on]
    assert main([*arguments, "-o", str(out)]) == 3
    assert "3 rows of" in (told := " ".join(capsys.readouterr().err.split()))
    assert "1 have none, and 2 cells with scores are not in it and left out" in told
    joined = pd.read_parquet(out)
    assert joined["Metadata_cell"].tolist() == table["Metadata_cell"].tolist()
    np.testing.assert_array_equal(joined["Cells_AreaShape_Area"], table["Cells_AreaShape_Area"])
    np.testing.assert_array_equal(joined[SCORE], [0.3, 0.0, 0.1, np.nan])


def test_keys_are_equal_as_numbers_or_text_and_leading_zeros_stay(run, tmp_path):
    wide = wide_of(run)
    wide.table["Metadata_Well"] = [f"0{n}" for n in range(5)]
    wide.table["Metadata_Site"] = [1.0, 2.0, np.nan, 4.0, 5.0]
    path = tmp_path / "p.csv"
    path.write_text("Metadata_Well,Metadata_Site,Cells_a\n00,1,0.5\n01,2,1.5\n02,,2.5\n03,5,3.5\n")
    read = read_profiles(path)
    assert read["Metadata_Well"].tolist() == ["00", "01", "02", "03"]
    joined = join(wide, read, keys_of("Metadata_Well,Metadata_Site", wide, read))
    np.testing.assert_array_equal(joined.table[SCORE], [0.0, 0.1, np.nan, np.nan])
    assert (joined.matched, joined.without_score, joined.without_profile) == (2, 2, 3)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_text_in_tables_stays_text_on_export(run, tmp_path, ending):
    """Plates 12E10, 3E2 and 300, wells 01 and 1, barcodes 007: none of them is a number."""
    wide = wide_of(run)
    wide.table["Metadata_Plate"] = ["12E10", "120000000000", "3E2", "300", "NULL"]
    wide.table["Metadata_Well"] = ["01", "1", "007", "7", "7.0"]
    wide.table["Metadata_object"] = [1, 2, 3, 4, 5]
    table = wide.table[["Metadata_Plate", "Metadata_Well"]].assign(
        ObjectNumber=["1.0", "2", "3.0", "4", "05"], Cells_a=0.5
    )
    path = tmp_path / f"p{ending}"
    table.to_parquet(path) if ending == ".parquet" else table.to_csv(path, index=False)
    on = "Metadata_Plate,Metadata_Well"
    read = read_profiles(path, on=on)
    assert read["Metadata_Plate"].tolist() == table["Metadata_Plate"].tolist()
    assert join(wide, read, keys_of(on, wide, read)).matched == 5
    number = "Metadata_object=ObjectNumber"  # typed there, text here: 05 is not 5
    read = read_profiles(path, on=number)
    joined = join(wide, read, keys_of(number, wide, read))
    assert joined.matched == 4
    np.testing.assert_array_equal(joined.table[SCORE], [0.0, 0.1, 0.2, 0.3, np.nan])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on", "error", "message"),
    [
        (None, ConfigError, "needs --on.*Both have: Metadata_Plate"),
        ("Metadata_Wel", ConfigError, "The results have no column 'Metadata_Wel'"),
        ("Metadata_Plate=Metadata_Plat", ConfigError, "no column 'Metadata_Plat'. Did you mean"),
        ("Metadata_Plate", DataError, "5 cells with scores share the key Metadata_Plate=Ä1"),
        ("Metadata_attrscore_id=Metadata_Plate", DataError, "4 rows of the profile table share"),
        ("Metadata_attrscore_id=Metadata_number", DataError, "No row .* matches.* 0, here cell0"),
    ],
)
def test_keys_that_cannot_be_used_are_told(run, tmp_path, on, error, message):
    path, _ = profiles(tmp_path, Metadata_Plate=["Ä1"] * 4, Metadata_number=range(4))
    wide, table = wide_of(run), read_profiles(path)
    with pytest.raises(error, match=message):
        join(wide, table, keys_of(on, wide, table))


@pytest.mark.slow
def test_profiles_that_cannot_be_used_are_told(run, tmp_path, capsys):
    with pytest.raises(DataError, match="There is no profile table"):
        read_profiles(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="has no row"):
        read_profiles(tmp_path / "empty.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read as a profile table"):
        read_profiles(tmp_path / "broken.parquet")
    path, _ = profiles(tmp_path)
    wide = wide_of(run)
    keys = {"Metadata_attrscore_id": "Metadata_cell"}
    again = join(wide, read_profiles(path), keys).table
    with pytest.raises(ConfigError, match="has attrscore's columns already"):
        join(wide, again, keys)
    for arguments, message in (
        (["--to", "pycytominer"], "--to pycytominer needs --profiles"),
        (["--to", "csv", "--on", "a"], "--on needs --profiles"),
        (["--to", "csv", "--overlap", "max"], "--overlap belongs to images"),
        (["--to", "tiff", "--scores", "grad_camo"], "--scores belongs to tables"),
        (["--to", "tiff"], "No maps are kept here; compute them: run the same with keep=native"),
        (["--to", "csv", "-o", "scores.xlsx"], "written as .csv, .csv.gz or .parquet"),
        (["--to", "anndata", "-o", "scores.zip"], "AnnData is written as .h5ad"),
    ):
        assert main(["export", str(run), *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(StoreError, match="There is no file or folder"):
        table_and_kinds(tmp_path / "nowhere")


@pytest.mark.slow
def test_pycytominer_itself_leaves_our_columns_alone(run, tmp_path):
    pycytominer = pytest.importorskip("pycytominer", reason="pycytominer is not installed")
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"Metadata_cell": [f"cell{n}" for n in range(5)]})
    for number in range(3):
        table[f"Cells_Texture_{number}"] = generator.normal(size=5)
    table["Cells_Constant"] = 1.0
    table.to_parquet(tmp_path / "profiles.parquet")
    on = "Metadata_attrscore_id=Metadata_cell"
    arguments = ["--to", "pycytominer", "--profiles", str(tmp_path / "profiles.parquet")]
    assert main(["export", str(run), *arguments, "--on", on]) == 0
    from pycytominer.cyto_utils import infer_cp_features, load_profiles

    loaded = load_profiles(str(run / "export" / "scores.csv.gz"))
    assert infer_cp_features(loaded) == [f"Cells_Texture_{n}" for n in range(3)] + [
        "Cells_Constant"
    ]
    assert SCORE in infer_cp_features(loaded, metadata=True)
    selected = pycytominer.feature_select(loaded, operation=["variance_threshold"])
    assert "Cells_Constant" not in selected
    np.testing.assert_array_equal(selected[SCORE], np.arange(5) / 10)
    normalized = pycytominer.normalize(selected, features="infer", method="standardize")
    np.testing.assert_array_equal(normalized[SCORE], np.arange(5) / 10)


# AnnData


@pytest.mark.slow
def test_anndata_reads_scores_layers_and_provenance(run, tmp_path):
    anndata = pytest.importorskip("anndata", reason="anndata, an extra, is not installed")
    assert main(["export", str(run), "--to", "anndata"]) == 0
    read = anndata.read_h5ad(run / "export" / "scores.h5ad")
    assert list(read.obs_names) == [f"cell{n}" for n in range(5)]
    expected = wide_of(run).table
    of = read.var[(read.var["layer"] == "features.3") & (read.var["score"] == "grad_camo")]
    assert list(of.index) == ["grad_cam_features.3_grad_camo"]
    np.testing.assert_array_equal(read[:, of.index].X[:, 0], expected[SCORE])
    assert set(read.var["kind"]) == {"score"}
    assert set(read.var["method"]) == {"grad_cam", "integrated_gradients"}
    assert len(read.var) == len(read.var.drop_duplicates(["method", "layer", "score"]))
    assert read.var.loc[of.index[0], "says"]
    assert read.obs["Metadata_Plate"].astype(str).tolist() == ["Ä1"] * 5
    assert list(read.obs["grad_cam_features.3_status"]) == ["ok"] * 5
    assert not any(name.endswith("grad_camo") for name in read.obs)
    assert not read.obsm  # scores are columns of X, and nothing says where the cells lie
    (made,) = read.uns["attrscore"]["jobs"].values()
    assert json.loads(made["identity"])["base"]["seed"] == 0
    said = read.uns["attrscore"]["verdicts"]
    assert list(said["kind"]) == ["inconclusive"]
    assert "fewer than 30" in said["sentence"][0]


def test_anndata_of_profiles_has_their_features(run, tmp_path):
    anndata = pytest.importorskip("anndata", reason="anndata, an extra, is not installed")
    path, table = profiles(tmp_path)
    arguments = ["--to", "anndata", "--profiles", str(path)]
    on = "Metadata_attrscore_id=Metadata_cell"
    assert main(["export", str(run), *arguments, "--on", on]) == 3
    read = anndata.read_h5ad(run / "export" / "scores.h5ad")
    assert list(read.var_names[read.var["kind"] == "feature"]) == ["Cells_AreaShape_Area"]
    np.testing.assert_array_equal(read.X[:, 0], table["Cells_AreaShape_Area"])
    assert set(read.var["kind"]) == {"feature", "score"}
    assert list(read.obs_names) == ["0", "1", "2", "3"]  # one row has no id
    scores = read[:, "grad_cam_features.3_grad_camo"].X[:, 0]
    np.testing.assert_array_equal(scores, [0.3, 0.0, 0.1, np.nan])


def test_text_that_begins_as_a_formula_stays_text_for_a_spreadsheet(tmp_path):
    cells = ["=1+1", "+x", "-x", "@x", "\tx", "x=1"]
    table = pd.DataFrame({"Metadata_note": cells, "score": [-1.5, *range(5)], "=a": "b"})
    write_table(table, tmp_path / "plain.csv", provenance={})
    write_table(table, tmp_path / "safe.csv", provenance={}, excel=True)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "plain.csv"), table)
    safe = pd.read_csv(tmp_path / "safe.csv")
    assert safe["Metadata_note"].tolist() == [*(f"'{each}" for each in cells[:5]), "x=1"]
    assert safe["score"].tolist() == table["score"].tolist()
    assert list(safe) == ["Metadata_note", "score", "'=a"]


def cut_from_fields(run):
    """Results of cells that were cut from two fields."""
    wide = wide_of(run)
    wide.table["Metadata_image"] = ["f1", "f1", "f1", "f2", "f2"]
    wide.table["Metadata_object"] = [1, 2, 3, 1, 2]
    for axis in "xy":
        wide.table[f"Metadata_centroid_{axis}"] = np.arange(5.0)
    wide.table["Metadata_attrscore_label"] = [0, 1, 0, 1, -1]
    return to_anndata(wide.table, wide, provenance={}, classes=["DMSO", "drug"])


def test_anndata_is_what_scanpy_and_spatialdata_ask_for(run, tmp_path):
    """Their documentation: the keys of a table that annotates labels, and X with nothing beside."""
    anndata = pytest.importorskip("anndata", reason="anndata, an extra, is not installed")
    write_anndata(cut_from_fields(run), tmp_path / "s.h5ad")
    read = anndata.read_h5ad(tmp_path / "s.h5ad")
    said = read.uns["spatialdata_attrs"]
    assert (said["region_key"], said["instance_key"]) == ("region", "instance_id")
    assert list(said["region"]) == ["f1", "f2"] == list(read.obs["region"].cat.categories)
    assert np.issubdtype(read.obs["instance_id"].dtype, np.integer)
    assert not read.obs.duplicated(["region", "instance_id"]).any()
    assert list(read.obsm) == ["spatial"]
    assert read.obsm["spatial"].shape == (5, 2)
    assert list(read.obs["label"].cat.codes) == [0, 1, 0, 1, -1]
    assert list(read.obs["label"].cat.categories) == ["DMSO", "drug"]
    assert read.obs_names.is_unique
    assert read.var_names.is_unique
    assert read.X.shape == (5, len(read.var))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # scanpy's own, and those of what it imports
def test_scanpy_computes_with_it(run):
    scanpy = pytest.importorskip("scanpy", reason="scanpy is not installed")
    found = cut_from_fields(run)
    whole = found[:, np.isfinite(found.X).all(0) & (found.X.std(0) > 0)].copy()
    scanpy.pp.scale(whole)
    scanpy.pp.pca(whole, n_comps=2)
    assert whole.obsm["X_pca"].shape == (5, 2)
    frame = scanpy.get.obs_df(found, keys=["grad_cam_features.3_grad_camo", "label"])
    assert len(frame) == 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # spatialdata's own, and those of what it imports
def test_spatialdata_takes_it_as_a_table_of_its_labels(run):
    spatialdata = pytest.importorskip("spatialdata", reason="spatialdata is not installed")
    labels = {
        name: spatialdata.models.Labels2DModel.parse(np.arange(16).reshape(4, 4) % 4, dims="yx")
        for name in ("f1", "f2")
    }
    table = spatialdata.models.TableModel.parse(cut_from_fields(run))
    found = spatialdata.SpatialData(labels=labels, tables={"scores": table})
    joined = spatialdata.get_values(
        "grad_cam_features.3_grad_camo", sdata=found, element_name="f1", table_name="scores"
    )
    assert len(joined) == 3
