"""The guide through the code leads to what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_each_hop_from_study_file_to_bundle_is_a_function_of_its_file():
    hops = re.findall(
        r"^\| \d+ \| `([^`]+)` \| `([^`]+)` \|", section("From study file to bundle"), re.MULTILINE
    )
    assert 10 <= len(hops) <= 14
    for file, function in hops:
        tree = ast.parse((ROOT / file).read_text())
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, file


def test_the_glossary_is_short_and_each_term_has_a_line():
    terms = re.findall(r"^\| ([a-z ]+) \| (.+) \|$", section("Words"), re.MULTILINE)
    terms = [term for term in terms if term[0] != "word"]
    assert 10 <= len(terms) <= 20
    assert len({name for name, _ in terms}) == len(terms)


def test_words_that_only_this_house_knew_are_gone():
    gone = r"(?<![\"\w])(kitchen|workbench|frontiers?|knobs?|rare_gc|ledger)(?![\"\w])"
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("tlsearch", "docs", "plugins", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md") and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(gone, line, re.IGNORECASE)
    ]
    assert found == []
