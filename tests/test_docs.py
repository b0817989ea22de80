"""The documentation is built, and what it shows is run: its tutorial, its Python, its commands."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from typer.main import get_command

from tlsearch import spec
from tlsearch.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ ")]


def everywhere(found) -> list:
    return [
        pytest.param(one, id=f"{page.relative_to(ROOT / 'docs')}-{number}")
        for page in PAGES
        for number, one in enumerate(found(page))
    ]


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://(?!docs\.ray\.io|optuna\.org)[^"]*\.(?:js|css)', front)
    assert "tlsearch init" in (tmp_path / "site" / "reference" / "commands" / "index.html").read_text()


@pytest.mark.slow
def test_the_tutorial_is_walked(tmp_path):
    page = ROOT / "docs" / "tutorial.md"
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TLSEARCH_CACHE": str(tmp_path / "cache"),
    }

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=env, timeout=400)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    (images,) = blocks(page, "python")
    run(sys.executable, "-c", images)
    told = {line: run(*shlex.split(line)) for line in commands(page)}
    predicted = json.loads(next(text for line, text in told.items() if line.startswith("tlsearch predict")))
    right = [one for one in predicted if one["label"] == "3"]
    assert len(right) > 0.9 * len(predicted)
    one = next(one for one in predicted if one["item"].endswith("/3.png"))
    name, share = next(iter(one["probabilities"].items()))
    assert f"{name} {share:.4f}" in next(text for line, text in told.items() if line.startswith("python"))
    assert "<html" in (tmp_path / "first.html").read_text()


def _tlsearch(page: Path) -> list[str]:
    return [line for line in commands(page) if line.startswith("tlsearch ")]


@pytest.mark.parametrize("line", everywhere(_tlsearch))
def test_commands_are_understood(line):
    command, words = get_command(app), shlex.split(re.split(r" [|>&]", line)[0])[1:]
    context = click.Context(command, info_name="tlsearch")
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    parsed = command.make_context(command.name, words, parent=context)
    assert all(parsed.params.get(option.name) is not None for option in command.params if option.required)


@pytest.mark.parametrize("source", everywhere(lambda page: blocks(page, "python")))
def test_python_is_python_of_today(source):
    import importlib

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tlsearch":
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, name.name) for name in node.names)


@pytest.mark.parametrize(
    "text", everywhere(lambda page: [b for b in blocks(page, "yaml") if b.startswith("study:")])
)
def test_study_files_are_valid(text, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    assert spec.load(tmp_path / "s.yaml").study
