"""What the files for people and their services name is there: keys, paths, targets, versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
FORMS = sorted((CHECKOUT / ".github").rglob("*.yml"))
PROSE = [
    path
    for folder in (CHECKOUT, CHECKOUT / "docs", CHECKOUT / ".github")
    for path in sorted(folder.glob("*.md"))
    if path.name != "CHANGELOG.md"  # what once was may be gone
]
FOLDERS = {path.name for path in CHECKOUT.iterdir() if path.is_dir() and path.name[0] != "."}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_and_workflows_are_what_their_service_reads(path):
    read = yaml.safe_load(path.read_text())
    if path.parent.name == "ISSUE_TEMPLATE":
        assert {"name", "description", "body"} <= read.keys()
        ids = [field["id"] for field in read["body"]]
        assert len(ids) == len(set(ids))
        assert all(field["attributes"]["label"] for field in read["body"])
    else:
        assert {"name", True, "permissions", "jobs"} <= read.keys()  # YAML's "on" is true
        for job in read["jobs"].values():
            assert job["runs-on"]
            assert all(("run" in step) != ("uses" in step) for step in job["steps"])


def test_workflows_run_every_python_that_the_package_promises():
    text = (CHECKOUT / ".github" / "workflows" / "checks.yml").read_text()
    matrix = yaml.safe_load(text)["jobs"]["tests"]["strategy"]["matrix"]
    promised = [
        line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if ":: 3." in line
    ]
    assert matrix["python"] == promised


def test_the_citation_has_what_its_format_demands():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert (paper["start"], paper["end"], paper["year"]) == (6988, 6996, 2024)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_paths_targets_and_extras_that_are_named_exist(path):
    text = path.read_text()
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (?:\w+=\S+ )*(\w+)", text, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    for extra in re.findall(r"'\.\[(\w+)\]'", text):
        assert extra in PROJECT["project"]["optional-dependencies"], extra
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / link).exists(), link
    for named in re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?|\w+\.(?:toml|txt|md))`", text):
        if named.split("/")[0] in FOLDERS or "/" not in named:
            assert (CHECKOUT / named).exists(), named


def test_workflows_name_targets_that_exist():
    makefile = (CHECKOUT / "Makefile").read_text()
    for path in FORMS:
        for target in re.findall(r"\bmake (?:\w+=\S+ )*(\w+)", path.read_text()):
            assert f"\n{target}:" in makefile, target


def test_groups_of_dependencies_are_no_extras():
    assert set(PROJECT["dependency-groups"]) == {"dev", "docs", "sweeper", "weights"}
    assert not {"dev", "docs", "test"} & PROJECT["project"]["optional-dependencies"].keys()
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (CHECKOUT / "constraints.txt").read_text().splitlines()
    }
    asked = [each for group in PROJECT["dependency-groups"].values() for each in group]
    names = {re.match(r"[\w.-]+", each)[0].lower() for each in asked if isinstance(each, str)}
    assert names - {"attrscore"} <= pinned


def test_the_paper_cites_what_its_list_has_and_nothing_else():
    cited = set(re.findall(r"@(\w+)", (CHECKOUT / "paper.md").read_text()))
    assert cited == set(re.findall(r"@\w+\{(\w+)", (CHECKOUT / "paper.bib").read_text()))
    front = yaml.safe_load((CHECKOUT / "paper.md").read_text().split("---")[1])
    assert {"title", "tags", "authors", "affiliations", "date", "bibliography"} <= front.keys()
    assert (CHECKOUT / front["bibliography"]).exists()
