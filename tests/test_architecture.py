"""The guide through the code leads to what is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()

MOST_LINES, MOST_FUNCTION_LINES, MOST_ARGUMENTS = 400, 60, 8
MIGRATIONS = "tlsearch/database/migrations/versions/"
"""Lists of tables and columns, never changed after their release."""
LONG_CONSTRUCTORS = {
    # scikit-learn reads the parameters of an estimator from its constructor.
    "ImageSearch",
    "TransferSearchClassifier",
    "TransferSearchMultilabel",
    "TransferSearchRegressor",
    # Plugin authors name what their data has, and leave out the rest.
    "Samples",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


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


def sources() -> Iterator[tuple[str, str]]:
    """Place and text of each module that is published."""
    for folder in ("tlsearch", "plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def lines_of(function: Function) -> int:
    """Lines of a function without its docstring; those of a function inside it count."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or 0) - docstring.lineno + 1)


def arguments_of(function: Function) -> int:
    """How many arguments a method takes besides itself."""
    given = function.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1


def test_no_source_file_is_long():
    long = {place: len(text.splitlines()) for place, text in sources()}
    assert {place: lines for place, lines in long.items() if lines > MOST_LINES} == {}


def test_no_function_is_long():
    long = {
        f"{place}:{node.lineno} {node.name}": lines_of(node)
        for place, text in sources()
        if not place.startswith(MIGRATIONS)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, Function) and lines_of(node) > MOST_FUNCTION_LINES
    }
    assert long == {}


def test_no_constructor_takes_many_arguments():
    many = {
        f"{place}:{method.lineno} {node.name}": arguments_of(method)
        for place, text in sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef) and node.name not in LONG_CONSTRUCTORS
        for method in node.body
        if isinstance(method, Function)
        and method.name == "__init__"
        and arguments_of(method) > MOST_ARGUMENTS
    }
    assert many == {}


def imported(text: str) -> Iterator[str]:
    """Names of all modules that a source file imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_ray_tune_is_imported_by_its_backend_alone():
    """`lint-imports` sees of packages outside only their first name."""
    found = {
        place for place, text in sources() for name in imported(text) if f"{name}.".startswith("ray.tune.")
    }
    assert found == {f"tlsearch/search/backends/{name}.py" for name in ("ray_tune", "schedulers")}


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
