"""Processes that a command starts, and those that read what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attrscore.cli.main import main

SMALL = ["dataset.cells=12", "dataset.size=[32,32]", "batch_size=4", "figures=none"]
COMMAND = [
    sys.executable,
    "-P",
    "-c",
    "import sys; from attrscore.cli.main import main; sys.exit(main())",
]

MODULE = "from pathlib import Path\nPath('ran').touch()\n"


def test_modules_beside_the_data_are_not_imported_by_child_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "readers=1"]) == 0
    for name in ("h5py", "numpy", "struct", "json", "multiprocessing", "attrscore", "torch"):
        Path(f"{name}.py").write_text(MODULE)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for arguments in (["verify", "results"], [*SMALL, "readers=1", "results=other"]):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        assert not Path("ran").exists()


def test_output_that_nobody_reads_is_dropped_and_the_work_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    closed, writable = os.pipe()
    os.close(closed)
    with os.fdopen(writable, "w") as out:
        done = subprocess.run([*COMMAND, *SMALL], stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert "Broken" not in done.stderr
    assert list(Path("results/jobs").glob("*/*.h5"))


def test_a_broken_pipe_of_ones_own_code_is_no_success(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("piped.py").write_text("def make():\n    raise BrokenPipeError('mine')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BrokenPipeError, match="mine"):
        main([*SMALL, "model=factory", "model.target=piped.make"])


READING = """
import os, time
from attrscore.engine.reading import Reader
from attrscore.datasets import Phantom

class Slow(Phantom):
    def read(self, rows, /):
        print(os.getpid(), flush=True)
        {then}
        return super().read(rows)

if __name__ == "__main__":
    reader = Reader(Slow(cells=64, size=(32, 32)), 2)
    try:
        for batch in reader.batches(range(64), 4, {{}}):
            {main}
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}", flush=True)
"""


def test_a_reader_that_is_killed_is_a_sentence(tmp_path):
    script = tmp_path / "reading.py"
    script.write_text(READING.format(then="os.kill(os.getpid(), 9)", main="pass"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert "DataError: A process that read cells ahead was killed" in done.stdout


def test_readers_end_when_the_main_process_is_gone(tmp_path):
    script = tmp_path / "reading.py"
    script.write_text(READING.format(then="pass", main="time.sleep(60)"))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as running:
        readers = set()
        while len(readers) < 2:
            readers.add(int(running.stdout.readline()))
        running.send_signal(signal.SIGKILL)
        running.wait()
        until = time.monotonic() + 30
        while any(map(alive, readers)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(alive, readers))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
