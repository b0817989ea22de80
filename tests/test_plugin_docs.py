"""``plugins/README.md`` is run: its classes keep the contract, its commands and packages exist."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import re
import shlex
import sys
import tomllib
import unittest
from pathlib import Path

import click
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from tlsearch import spec
from tlsearch.cli.app import app
from tlsearch.contracts import BackboneFamily, Combination, DatasetSource, Strategy
from tlsearch.testing import (
    BackboneContract,
    CombinationContract,
    DatasetContract,
    StrategyContract,
    check_dataset,
    installed,
)
from tlsearch.testing.contract import Contract
from tlsearch.training import sources

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "plugins" / "README.md").read_text()
SLOW = {
    "test_reloads_in_another_process",
    "test_the_same_in_another_process",
    "test_same_data_again",
    "test_same_seed_same_model",
}
"""Left out here: they start processes or train again, and hold for what is tested elsewhere."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def module_of(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A python block as a module that other code can import."""
    name = f"tlsearch_docs_{number}"
    (folder / f"{name}.py").write_text(blocks("python")[number])
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def plugins_in(module) -> list[type]:
    kinds = (Strategy, BackboneFamily, DatasetSource, Combination)
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, kinds) and value.__module__ == module.__name__
    ]


def keeps(contract: type[Contract]) -> None:
    contract.setup_class()
    try:
        for name in contract.checks():
            if name not in SLOW:
                with contextlib.suppress(unittest.SkipTest):
                    getattr(contract(), name)()
    finally:
        contract.teardown_class()


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_is_run_and_plugins_keep_the_contract(tmp_path, monkeypatch, number):
    module = module_of(number, tmp_path, monkeypatch)
    for kind in plugins_in(module):
        if issubclass(kind, Strategy):
            keeps(type("Checked", (StrategyContract,), {"strategy": kind(), "epochs": 8}))
        elif issubclass(kind, BackboneFamily):
            with installed(backbones={"plain": kind}):
                keeps(type("Checked", (BackboneContract,), {"backbone": "plain/small"}))
        elif issubclass(kind, Combination):
            keeps(type("Checked", (CombinationContract,), {"combination": kind()}))
        else:
            with installed(datasets={"documented": kind}):
                keeps(type("Checked", (DatasetContract,), {"dataset": "documented"}))


def test_the_source_that_lists_files_works_from_a_study_file(tmp_path, monkeypatch):
    (number,) = [number for number, code in enumerate(blocks("python")) if "class JsonList(" in code]
    module = module_of(number, tmp_path, monkeypatch)
    listed = {f"{index}.png": f"kind {index % 2}" for index in range(40)}
    (tmp_path / "pictures").mkdir()
    for index, name in enumerate(listed):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / "pictures" / name)
    (tmp_path / "list.json").write_text(json.dumps(listed))
    (tmp_path / "study.yaml").write_text(
        "study: listed\ndata: {source: json_list, path: list.json, pictures: pictures}\n"
        "backbones: [testing/cnn]\n"
    )
    with installed(datasets={"json_list": module.JsonList}):
        found = sources.listing(spec.load(tmp_path / "study.yaml").data)
        checked = check_dataset("json_list", {"path": tmp_path / "list.json", "pictures": "pictures"})
    assert found.samples.classes == ("kind 0", "kind 1")
    assert [result.message for result in checked if not result.ok] == []
    assert not any(result.message.startswith("not checked") for result in checked)


def test_the_python_shows_every_kind():
    bases = set(re.findall(r"^class \w+\((\w+)", "\n".join(blocks("python")), flags=re.MULTILINE))
    kinds = {"FineTuning", "HeadStrategy", "BackboneFamily", "DatasetSource", "Combination"}
    assert kinds | {"StrategyContract"} <= bases


def test_the_table_of_hooks_names_all_of_them():
    rows = re.findall(r"^\| `(.*)` \| (?:by|after|around|before|for|where)", README, flags=re.MULTILINE)
    named = set(re.findall(r"(\w+)\(", " ".join(rows)))
    hooks = {name for name, value in vars(Strategy).items() if inspect.isfunction(value) and name[0] != "_"}
    assert named == hooks


def test_the_table_of_checks_names_all_of_them():
    (table,) = re.findall(r"\| strategy check .*?\n(?=\n)", README, flags=re.DOTALL)
    named = [
        check
        for row in table.strip().splitlines()[2:]
        for check in row.split("|")[1].strip().split(", ")
        if check
    ]
    assert named == [name.removeprefix("test_").replace("_", " ") for name in StrategyContract.checks()]


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return sorted({line.removeprefix("$ ") for line in lines})


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("tlsearch ")])
def test_commands_are_understood(line):
    context = click.Context(get_command(app), info_name="tlsearch")
    command, words = context.command, shlex.split(line)[1:]
    while hasattr(command, "commands") and words:
        command, words = command.commands[words[0]], words[1:]
    parsed = command.make_context(command.name, words, parent=context)
    assert all(parsed.params.get(option.name) is not None for option in command.params if option.required)


def test_the_package_that_is_written_is_the_one_that_is_installed_and_checked(tmp_path):
    (new,) = [shlex.split(line) for line in commands() if "plugins new" in line]
    (install,) = [shlex.split(line) for line in commands() if line.startswith("pip ")]
    done = CliRunner().invoke(app, [*new[1:], "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    package = tmp_path / install[-1]
    entry = tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"]
    (documented,) = blocks("toml")
    assert tomllib.loads(documented)["project"]["entry-points"] == entry
    checked = {line.split()[3] for line in commands() if "plugins check" in line}
    assert set(entry["tlsearch.strategies"]) <= checked


def test_packages_and_bases_that_are_named_exist():
    for name in ("tlsearch-efficientnet-lite", "tlsearch-lora", "tlsearch-staged", "tlsearch-averaging"):
        assert name in README
        assert (ROOT / "plugins" / name / "pyproject.toml").is_file(), name
    for module, name in (("tlsearch.backbones.timm", "TimmBackbones"), ("tlsearch.contracts", "opaque")):
        assert hasattr(importlib.import_module(module), name)


def test_nothing_but_tests_of_plugins_imports_the_testing_kit():
    for source in (ROOT / "plugins").glob("*/src/**/*.py"):
        imported = set(
            re.findall(r"^\s*(?:from|import) tlsearch\.(\w+)", source.read_text(), flags=re.MULTILINE)
        )
        allowed = {"contracts", "records", "errors", "backbones", "strategies", "datasets", "tables"}
        assert imported <= allowed, source


def test_languages_of_blocks_are_known():
    opened = re.findall(r"^```(\w*)\n", README, flags=re.MULTILINE)
    assert set(opened) - {""} == {"python", "toml", "console"}
