"""``attrscore view`` in the real napari, under a virtual screen, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import matplotlib.image
import pytest

from attrscore.cli.main import main

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


@pytest.fixture(scope="module")
def napari(tmp_path_factory) -> Path:
    """A Python that sees this environment and napari, which is too large to be in it."""
    if shutil.which("Xvfb") is None:
        pytest.skip(
            "no virtual screen here: make system installs Xvfb where it runs as root with apt"
        )
    folder = tmp_path_factory.mktemp("napari")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (inside,) = folder.glob("lib/python*/site-packages")
    (inside / "here.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, "napari[pyqt6]"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"napari cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return python


def test_napari_shows_image_masks_and_heat(napari, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["dataset.cells=6", "dataset.size=[32,32]", "figures=none", "keep=native"]
    assert main([*small, "layers=[features.3,features.6]", "method=[grad_cam,saliency]"]) in (0, 3)
    screen, shown = Path("screen.log"), Path("view.png")
    command = [
        "from attrscore.cli.main import main; import sys; sys.exit(main())",
        "view",
        "results",
    ]
    cells = "phantom-0-000004,phantom-0-000002"
    virtual = ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x1024x24"]
    with (
        screen.open("w") as log,
        subprocess.Popen(virtual, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            display = server.stdout.readline().strip()
            done = subprocess.run(
                [napari, "-c", *command, "--cells", cells, "--screenshot", shown],
                env={**os.environ, "DISPLAY": f":{display}", "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=300,
            )
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr
    picture = matplotlib.image.imread(shown)
    height, width = picture.shape[:2]
    canvas = picture[height // 4 : height // 2, width // 2 : 3 * width // 4, :3]
    assert canvas.std() > 0.05  # of a blank canvas it is 0


def test_without_napari_the_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "napari", None)
    assert main(["dataset.cells=4", "dataset.size=[16,16]", "figures=none", "keep=native"]) in (
        0,
        3,
    )
    capsys.readouterr()
    assert main(["view", "results"]) == 1
    assert 'pip install "attrscore[view]"' in " ".join(capsys.readouterr().err.split())
    assert main(["view", "results", "--cells", "phantom-0-00001"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "No map is kept of a cell 'phantom-0-00001'. Did you mean 'phantom-0-00000" in told
