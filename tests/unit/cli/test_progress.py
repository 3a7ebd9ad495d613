"""What is said while a command works, where no terminal shows a bar."""

from __future__ import annotations

import io
import time

import pytest

from attrscore.cli import output


@pytest.mark.slow
def test_a_pipe_gets_a_line_a_minute(monkeypatch, capsys):
    monkeypatch.setattr(output, "MINUTE", 0.2)
    with output.progress("cells") as advance:
        time.sleep(0.5)  # nothing is known yet
        assert capsys.readouterr().err == ""
        advance(0, 9, "grad_cam 1/4")
        time.sleep(0.5)
        advance(3, 9, "")
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0 of 9 cells, grad_cam 1/4"
    assert lines[-1].startswith("3 of 9 cells, about ")
    assert lines[-1].endswith(" s left")
    assert len(lines) <= 6
    time.sleep(0.3)
    assert capsys.readouterr().err == ""  # the end is the end


def test_what_is_quick_says_nothing(capsys):
    with output.progress("cells") as advance:
        advance(1, 9)
    assert capsys.readouterr().err == ""


def test_several_jobs_at_once_draw_no_bars_over_each_other(monkeypatch):
    drawn = io.StringIO()
    console = output.Console(file=drawn, force_terminal=True)
    monkeypatch.setattr(output, "stderr", lambda: console)
    with output.progress("cells", at_once=2) as advance:
        advance(1, 9)
    assert drawn.getvalue() == ""
    with output.progress("cells") as advance:
        advance(1, 9)
    assert "1/9" in drawn.getvalue()


def test_a_total_that_is_not_known_is_not_said(monkeypatch, capsys):
    monkeypatch.setattr(output, "MINUTE", 0.1)
    with output.progress("jobs planned") as advance:
        advance(2, 0, "trying saliency")
        time.sleep(0.3)
    assert capsys.readouterr().err.splitlines()[0] == "2 jobs planned, trying saliency"
