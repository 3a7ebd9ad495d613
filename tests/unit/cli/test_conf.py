"""YAML files and registry say the same, so that Hydra itself catches a typo."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

from attrscore.cli.conf import conf_files, write_conf
from attrscore.cli.hydra_app import configuration
from attrscore.core.heat import HeatOptions
from attrscore.core.options import options_of
from attrscore.core.options import plain as said_plainly
from attrscore.core.registry import MODEL_OPTIONS, REGISTRIES, SCORERS, conf_dir

SEVERAL = ("method", "scorer")
BUILT_IN = [
    (kind, entry.name)
    for kind, registry in REGISTRIES.items()
    for entry in registry.entries()
    if entry.alias_of is None and entry.package == "attrscore"
]


def plain(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_plugin_has_a_yaml_with_its_options_and_their_defaults(kind, name):
    path = conf_dir() / kind / f"{name}.yaml"
    node = OmegaConf.to_container(OmegaConf.load(path))
    stated = node[name] if kind in SEVERAL else {k: v for k, v in node.items() if k != "name"}
    if kind not in SEVERAL:
        assert node["name"] == name
    if kind == "dataset":
        assert stated.pop("shard") is None  # of every dataset; none of them is told
    options = REGISTRIES[kind].options(name)
    if kind == "model":
        options |= MODEL_OPTIONS
    assert set(stated) == set(options)
    for option, default in options.items():
        if default is inspect.Parameter.empty:
            assert stated[option] == "???", option
        else:
            assert plain(stated[option]) == plain(default), option


@pytest.mark.parametrize("path", sorted(conf_dir().glob("*/*.yaml")), ids=lambda p: p.stem)
def test_every_yaml_belongs_to_a_plugin_and_says_what_it_is(path):
    assert path.read_text().startswith("# ")
    kind = path.parent.name
    if kind == "null" and path.stem != "none":
        assert path.stem in SCORERS
    if kind in REGISTRIES:
        node = OmegaConf.to_container(OmegaConf.load(path))
        name = next(iter(node)) if kind in SEVERAL else node["name"]
        assert name in REGISTRIES[kind]


@pytest.mark.slow
def test_every_null_can_be_added_to_the_scorers():
    nulls = {path.stem for path in conf_dir().glob("null/*.yaml")} - {"none"}
    assert nulls == {"circular_shift", "mask_swap", "random_map"}
    for chosen in (*nulls, f"[{','.join(nulls)}]"):
        scorers = configuration([f"null={chosen}"]).scorer
        assert set(scorers) == {"grad_camo", *chosen.strip("[]").split(",")}
    assert set(configuration([]).scorer) == {"grad_camo"}
    assert (
        configuration(["null=random_map", "scorer.random_map.count=7"]).scorer.random_map.count == 7
    )


@pytest.mark.slow
def test_the_files_are_what_make_conf_writes(tmp_path):
    files = conf_files()
    stale = [path for path, text in files.items() if (conf_dir() / path).read_text() != text]
    assert not stale, "run: make conf"
    groups = {path.partition("/")[0] for path in files}
    there = {f"{group}/{file.name}" for group in groups for file in (conf_dir() / group).iterdir()}
    assert there == set(files)
    assert len(write_conf(tmp_path)) == len(files)
    assert write_conf(tmp_path) == []
    (tmp_path / "target" / "gone.yaml").touch()
    (tmp_path / "target" / "norm.yaml").write_text("name: other\n")
    assert {file.name for file in write_conf(tmp_path)} == {"gone.yaml", "norm.yaml"}


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_plugin_and_option_says_what_it_means_in_plain_words(kind, name):
    plugin = REGISTRIES[kind].load(name)
    for option in options_of(plugin).values():
        assert option.text, option.name
    said = said_plainly(inspect.getdoc(plugin))
    assert said
    assert not re.search(r":\w+:`|``|^:\w+", said, re.MULTILINE)


def test_heat_defaults_agree():
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "heat" / "default.yaml"))
    assert node == asdict(HeatOptions())
