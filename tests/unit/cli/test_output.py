"""What the terminal shows of text that comes from users' data."""

from __future__ import annotations

import pandas as pd
import pytest
from rich.table import Table
from rich.text import Text

from attrscore.cli import output

HOSTILE = "[/b] [red]x[/] :smile: \x1b[31m\x9b2J \r\x07 \u202eabc \udc80"
SPELT = r"[/b] [red]x[/] :smile: \x1b[31m\x9b2J \r\x07 \u202eabc \udc80"


def table() -> Table:
    made = Table(title=HOSTILE, caption=HOSTILE)
    made.add_column(HOSTILE)
    made.add_row(HOSTILE)
    return made


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("made", [str, Text, lambda _: table()], ids=["line", "text", "table"])
def test_text_is_no_markup_and_controls_nothing(made, terminal, capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "250")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    thing = made(HOSTILE)
    output.stdout().print(thing, highlight=False)
    output.stderr().print(made(HOSTILE), highlight=False)
    for shown in capsys.readouterr():
        assert (SPELT.replace(r"\r\x07", "") if made is Text else SPELT) in shown  # rich drops them
        assert not {"\x9b", "\x07", "\r", "\u202e", "\udc80"} & set(shown)
        assert "\x1b[31m" not in shown


def test_errors_and_tables_of_odd_names(capsys):
    output.say_error(HOSTILE, [HOSTILE])
    assert capsys.readouterr().err.count(SPELT) == 2
    scores = pd.DataFrame(
        {name: [HOSTILE[:-1]] for name in ("model", "dataset", "method", "layer", "target")}
        | {"grad_camo": [0.5], "status": ["ok"]}
    )
    output.stdout().print(output.summary(scores))
    assert capsys.readouterr().out.count(SPELT[:-6]) == 4


def test_the_line_of_a_verdict_spells_out_what_would_control_the_terminal(capsys, monkeypatch):
    from attrscore.report import text
    from attrscore.stats.verdict import Verdict, model_verdicts

    monkeypatch.setenv("FORCE_COLOR", "1")
    about = {"model": HOSTILE[:-1], "method": "m", "layer": "l"}
    made = Verdict("inconclusive", f"inconclusive: {HOSTILE}", (), about)
    (judged,) = model_verdicts([made], ["model", "method", "layer"])
    output.stdout().print(text.said(judged))
    out = capsys.readouterr().out
    assert out.count(r"\r\x07") == 2
    assert not {"\x07", "\r"} & set(out)
