"""The README is run: its study file, its Python, its plugin, its commands."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from typer.main import get_command

from tests.one_process import command
from tlsearch import spec
from tlsearch.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_study_file_is_valid(tmp_path):
    (example,) = blocks("yaml")
    path = tmp_path / "flowers.yaml"
    path.write_text(example)
    assert spec.load(path).data.source == "folder"


def test_table_of_keys_names_all_sections_and_their_defaults():
    table = README.partition("| key | meaning |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, flags=re.MULTILINE))
    assert set(rows) == set(spec.StudySpec.model_fields)
    for section in ("budget", "search"):
        model = spec.StudySpec.model_fields[section].default
        for key, value in re.findall(r"`(\w+): ([\w.]+)`", rows[section]):
            assert str(getattr(model, key)).lower() == value, key


def test_plugin_is_a_strategy_of_ten_lines(monkeypatch):
    source = next(block for block in blocks("python") if "class Modest" in block)
    namespace: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), namespace)
    from tlsearch.contracts import Strategy

    assert issubclass(namespace["Modest"], Strategy)  # type: ignore[arg-type]
    assert len([line for line in source.splitlines() if line.strip()]) <= 14


def test_public_api_of_the_python_example():
    import tlsearch

    source = next(block for block in blocks("python") if "import tlsearch" in block and "class" not in block)
    for name in re.findall(r"tlsearch\.(\w+)\(", source):
        assert callable(getattr(tlsearch, name))


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            line[2:].split("  ")[0]
            for block in blocks("console")
            for line in block.splitlines()
            if "$ tlsearch" in line
        }
    ),
)
def test_commands_exist_with_these_options(line):
    words = line.split()
    of, path = get_command(app), list[str]()
    while hasattr(of, "commands") and words[len(path) + 1 :]:
        of = of.commands.get(words[len(path) + 1])
        if of is None:
            break
        path.append(words[len(path) + 1])
    assert path, line
    done = command(*path, "--help", folder=ROOT, env=os.environ)
    assert done.returncode == 0
    for option in (word for word in words if word.startswith("--")):
        assert option in done.stdout


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\$ make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_entry_point_block_is_toml():
    import tomllib

    (example,) = blocks("toml")
    assert tomllib.loads(example)["project"]["entry-points"]["tlsearch.strategies"]
