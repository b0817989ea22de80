"""Labels and reasons from outside can't order a terminal about, compute in a spreadsheet or format a card."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from tests.one_process import command
from tlsearch.cli import live, output
from tlsearch.contracts import TargetSpec
from tlsearch.safe_text import for_code, for_csv, for_markdown, for_terminal
from tlsearch.search.progress import Snapshot
from tlsearch.tasks.classification import Classification

BUNDLE = Path(__file__).parent / "golden" / "bundle"
TITLE = "\x1b]0;owned\x07cat"


def test_a_terminal_gets_no_orders(capsys):
    output.say(TITLE + "\nnext")
    assert capsys.readouterr().err == "\\x1b]0;owned\\x07cat\nnext\n"
    output.tell(f"  {TITLE}")
    assert capsys.readouterr().out == "  \\x1b]0;owned\\x07cat\n"
    stream = io.StringIO()
    Console(file=stream, width=100).print(output.table(["label"], [[TITLE], [3]]))
    assert "\x1b" not in stream.getvalue()
    assert for_terminal("Käse und 猫") == "Käse und 猫"


def test_a_running_search_gives_no_orders_in_what_it_repeats(capsys):
    told = Snapshot(phase=f"look at {TITLE}", total=2, note=TITLE, by_strategy={TITLE: 0.5, "b": 0.4})
    with live.LineView() as view:
        view(told)
    said = capsys.readouterr().err
    shown = io.StringIO()
    terminal = live.TerminalView()
    terminal.console = Console(file=shown, width=100)
    terminal(told)
    terminal.console.print(terminal.draw())
    for text in (said, shown.getvalue()):
        assert "\x1b" not in text
        assert text.count("\\x1b]0;owned") == 3


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_gets_no_formula(text, capsys):
    output.print_csv([text, "value"], [[text, -0.5]])
    head, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head[0] == row[0]
    assert row[0].startswith("'")
    assert row[1] == "-0.5"  # a number is no text
    assert for_csv("cat = dog") == "cat = dog"
    assert for_csv("two\nlines") == "two\\nlines"


@pytest.mark.parametrize("asked", [[], ["--csv"]])
def test_a_prediction_is_a_line_whatever_its_file_is_called(tmp_path, asked):
    names = ["a\nb.png", "c\x1b[2Jd.png", "e.png"]
    for name in names:
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    done = command("predict", BUNDLE, tmp_path, *asked, folder=tmp_path, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[len(asked) :]
    assert len(lines) == len(names)
    for line, name in zip(lines, ("a\\nb.png", "c\\x1b[2Jd.png", "e.png"), strict=True):
        assert str(tmp_path / name) in line


def test_markdown_shows_a_label_as_it_is():
    assert for_markdown("a|b\n# <img src=x>") == r"a\|b\\n\# \<img src=x\>"
    assert for_markdown("&lt;") == r"\&lt;"
    assert for_code("a`b\n") == r"`a'b\n`"


def test_classes_named_like_columns_have_columns_of_their_own():
    names = ("error", "item", "label", "probability")
    shares = dict.fromkeys(names, 0.25)
    one = {"label": "error", "probability": 0.25, "probabilities": shares}
    headings = [name for name, _ in Classification().cells(one, TargetSpec(names=names))]
    columns = ["item", *headings, "error"]
    assert len(set(columns)) == len(columns) == len(names) + 5
