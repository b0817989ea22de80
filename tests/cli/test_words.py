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
)


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_phrase_is_gone(odd):
    pages = [*(ROOT / "tlsearch").rglob("*.py"), *(ROOT / "tlsearch").rglob("*.j2"), ROOT / "README.md"]
    assert [str(path) for path in pages if odd in path.read_text(encoding="utf-8")] == []
