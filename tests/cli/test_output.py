"""Tables fit their terminal, and break no word, path or number."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tlsearch.cli import output

COLUMNS = ["trial", "balanced_accuracy", "strategy", "backbone", "freeze", "trained", "seconds"]
ROWS = [
    ["* 19", "0.9963", "gradual_unfreezing", "timm/convnextv2_nano.fcmae", "7/17", "3,296,234", "1234.5"],
    ["4", "0.9926", "fine_tune", "timm/resnet18", "5/17", "3,354,554", "4.5"],
]


def printed(width: int | None, **how) -> str:
    stream = io.StringIO()
    Console(file=stream, width=1000).print(output.table(COLUMNS, ROWS, width=width, **how))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 90, 200, None])
def test_a_leaderboard_fits_and_breaks_nothing(width):
    text = printed(width, right=["trial"], optional=["seconds", "trained", "freeze"])
    lines = [line.rstrip() for line in text.splitlines()]
    assert len(lines) == 4  # head, rule, two rows: none is broken
    assert width is None or max(map(len, lines)) <= width
    for word in ("* 19", "0.9963", "gradual_unfreezing", "timm/convnextv2_nano.fcmae"):
        assert word in lines[2]
    assert ("1234.5" in text) == (width in (200, None))


def test_prose_is_broken_between_words():
    stream = io.StringIO()
    reason = "stopped early: no better for three evaluations on the stop split"
    path = "/home/somebody/tlsearch-artifacts/tiny-20260101/model-000019"
    made = output.table(["trial", "why", "model"], [["7", reason, path]], width=80)
    Console(file=stream, width=1000).print(made)
    text = stream.getvalue()
    assert path in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert all(word in text for word in reason.split())


def test_a_table_in_a_pipe_has_no_blanks_at_its_ends(capsys):
    output.print_table(COLUMNS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_sentence_is_one_line_in_a_pipe_and_fits_a_terminal(capsys, monkeypatch):
    sentence = (
        "blowhole/exp2_num_108741.jpg (test) and blowhole/exp2_num_108923.jpg (val) are nearly the same"
    )
    output.print_wrapped(sentence)
    assert capsys.readouterr().out == f"  {sentence}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    output.print_wrapped(sentence)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(line.strip() for line in lines) == sentence
