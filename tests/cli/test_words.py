"""What a reader meets is said in the field's terms."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ODD = (
    "doubled images",
    "have their like in another split",
    "on stored activations",
    "this trial was not promoted",
    "no combination beats",
    "items through prefix",
    "items through suffix",
    "Its hyperparameters, and every score",
    "items that no choice has seen",
    "cheaper models save little",
    "} beyond)",
    "What is taken for what",
    '"text": "said"',
    "It takes eight",
    "(= {t.confirms}",
    "files in a process of its own",
    'help="What it is."',
    "can't be had from",
    "anybody there may",
    "Care for",
    'items} items"',
    "broken items were set",
    "is to be had for",
    "can't be had as",
    "alone has finished",
    "nothing to worry about was found",
    "told as sure",
    "That may be luck",
    "some of it is luck",
    "surer than it is right",
    "what others compare with",
    "One content",
    "before models could abstain",
    "What was recorded stays",
    "nothing more goes to",
    "That is not the token",
    "by another's name",
    "could only tie; other data",
    "95 % interval",
    ":.0f} %",
    ":.1f} %",
    ":.2f} %",
)


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_phrase_is_gone(odd):
    pages = [*(ROOT / "tlsearch").rglob("*.py"), *(ROOT / "tlsearch").rglob("*.j2"), ROOT / "README.md"]
    assert [str(path) for path in pages if odd in path.read_text(encoding="utf-8")] == []
