"""README and docs are run: a page's Python in one namespace, its commands as bash splits them.

A page is one empty folder, its blocks in their order. A command is written for a shell, so bash
says what its words are; it then runs in this process, on fewer and smaller cells than the page has.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hydra.core.override_parser.overrides_parser import OverridesParser

from attrscore.cli.main import COMMANDS, main

CHECKOUT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(CHECKOUT)): re.findall(
        r"```(\w*)\n(.*?)```", path.read_text(), flags=re.DOTALL
    )
    for path in sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])
}
ELSEWHERE = {"docs/extending.md"}  # test_extending.py
STATIC = {"CODE_OF_CONDUCT.md", "SECURITY.md", "docs/api.md", "docs/index.md", "CHANGELOG.md"}
SMALL = ["dataset.cells=24", "dataset.size=[32,32]"]


def as_typed(line: str) -> list[str]:
    """The words after ``attrscore`` that bash makes of a line."""
    spelt = subprocess.run(
        ["bash", "-c", f'attrscore() {{ for word; do printf "%s\\0" "$word"; done; }}\n{line}'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return spelt.split("\0")[:-1]


def run_as_typed(line: str) -> None:
    words = as_typed(line)
    command = COMMANDS.get(words[0]) if words else None
    small = [] if command and not command.settings else SMALL
    if "dataset=fields" in words:
        small = []
    small = [*small, "train.epochs=2"] if words[:1] == ["train"] else small
    if any(word.startswith("model.randomize=") for word in words):
        words = [word for word in words if not word.startswith("model.draws=")]
        small = [*small, "model.draws=2"]
    assert main([*words, *small]) == 0, line


def lines_of(text: str) -> list[str]:
    """Those that end in a backslash with the next."""
    return re.sub(r"\\\n\s*", "", text).splitlines()


def own_images() -> None:
    """What the page on own images takes for granted."""
    rng = np.random.default_rng(0)
    rows = []
    for folder in ("images", "masks"):
        Path(folder).mkdir()
    for field in range(4):
        labels = np.zeros((120, 120), np.uint16)
        for number, (y, x) in enumerate([(30, 30), (30, 90), (90, 30), (90, 90)], start=1):
            labels[y - 12 : y + 12, x - 12 : x + 12] = number
            treatment = "DMSO" if number % 2 else "drug"
            rows.append({"image": f"f{field}.tif", "label": number, "treatment": treatment})
        image = rng.integers(0, 60, labels.shape) + 150 * (labels % 2 == 1) + 80 * (labels > 0)
        tifffile.imwrite(f"images/f{field}.tif", image.astype(np.uint16))
        tifffile.imwrite(f"masks/f{field}.tif", labels)
    table = pd.DataFrame(rows)
    table.to_csv("labels.csv", index=False)
    images = sorted(table["image"].unique())
    numbers = table["image"].map(images.index)
    table.assign(ImageNumber=numbers, ObjectNumber=table["label"]).rename(
        columns={"treatment": "Metadata_Treatment"}
    ).drop(columns=["image", "label"]).to_csv("Cells.csv", index=False)
    pd.DataFrame({"ImageNumber": range(len(images)), "FileName_DNA": images}).to_csv(
        "Image.csv", index=False
    )


def profiles() -> None:
    rows = {"id": [f"phantom-0-{n:06}" for n in range(24)], "Cells_Area": range(24)}
    pd.DataFrame(rows).to_csv("profiles.csv", index=False)


def one_job() -> None:
    assert main([*SMALL, "keep=native", "figures=none"]) == 0


def real_images() -> None:
    """Those of the folder beside a developer's checkout: they are not ours to ship."""
    data = CHECKOUT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"the microscopy of {data.name} is not beside this checkout")
    for name in ("cp_nf1", "bbbc050_embryos"):
        Path(name).symlink_to(data / name)


PREPARED = {
    "docs/your-images.md": own_images,
    "docs/real-cells.md": real_images,
    "docs/profiles.md": profiles,
    "docs/format.md": one_job,
}


@pytest.mark.parametrize("page", sorted(set(PAGES) - ELSEWHERE - STATIC))
def test_a_page_runs_as_written(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    PREPARED.get(page, lambda: None)()
    namespace: dict[str, object] = {}
    for language, text in PAGES[page]:
        if language == "python":
            file = re.match(r"# (\w+\.py)\n", text)
            if file:
                Path(file[1]).write_text(text)
            else:
                exec(compile(text, page, "exec"), namespace)
        elif language == "bash":
            for line in lines_of(text):
                if line.startswith("attrscore"):
                    run_as_typed(line)
    CAME_OUT.get(page, lambda *_: None)(namespace)


def scores_of_three_maps(namespace) -> None:
    assert len(namespace["scores"]) == 64 * 3
    assert Path("report/report.html").exists()


def a_table_and_figures(_) -> None:
    assert len(pd.read_csv("scores.csv"))
    assert Path("scores.svg").exists()


def a_figure_and_heat(_) -> None:
    assert Path("mine/figures/scores.png").exists()
    assert list(Path("heat").rglob("*.tif"))


def nothing_twice(namespace) -> None:
    """The demo written out is the demo: two models, and two draws of random weights of each."""
    trained, draws = 2, 2 * 2
    assert len(list(Path("demo/results/jobs").iterdir())) == trained + draws
    assert len(namespace["scores"]) == trained * 7 * 24 + draws * 3 * 24


CAME_OUT = {
    "README.md": scores_of_three_maps,
    "docs/command-line.md": a_table_and_figures,
    "docs/tutorial.md": nothing_twice,
    "docs/your-images.md": a_figure_and_heat,
}


SETTING = re.compile(r"'?[~+]*[a-z_]+([./@][\w.]+)*=(?!True|False)\S")


@pytest.mark.parametrize("page", sorted(PAGES))
def test_settings_in_the_text_are_read_by_bash_and_hydra(page):
    """Also where a line cannot be run: on a cluster, or a setting that a sentence names."""
    prose = re.sub(r"```.*?```", "", (CHECKOUT / page).read_text(), flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    if page == "CHANGELOG.md":  # of older versions
        spans = []
    commands = [
        line.partition(" ")[2]
        for language, text in PAGES[page]
        if language == "text"
        for line in lines_of(text)
        if re.match(r"attrscore (-m )?[a-z_.]+=", line)
    ]
    for typed in [*filter(SETTING.match, spans), *commands]:
        words = [word for word in as_typed(f"attrscore {typed}") if word != "-m"]
        assert OverridesParser.create().parse_overrides(words), typed


def test_commands_are_marked_as_such():
    """A line with a command outside of a block of bash would not be run."""
    for page in set(PAGES) - ELSEWHERE:
        for language, text in PAGES[page]:
            assert language in {"bash", "python", "text"} or "attrscore " not in text, (page, text)
    commands = sum(
        line.startswith("attrscore")
        for blocks in PAGES.values()
        for language, text in blocks
        for line in text.splitlines()
        if language == "bash"
    )
    assert commands >= 40


def test_the_readme_is_short():
    assert (CHECKOUT / "README.md").read_text().count("\n") <= 95
