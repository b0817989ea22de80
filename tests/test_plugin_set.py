"""The packages under ``plugins/``: each is held to the contract by its own tests, and says what it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tlsearch import registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
ATTRIBUTES = {
    "tlsearch.strategies": "strategy",
    "tlsearch.backbones": "backbone",
    "tlsearch.datasets": "dataset",
    "tlsearch.combinations": "combination",
}


def project(package: Path) -> dict:
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_plugin_is_held_to_the_contract_by_a_test_of_its_package(package):
    tests = "\n".join(path.read_text() for path in (package / "tests").glob("test_*.py"))
    held = re.findall(r"^class \w+\((\w+)Contract\):\n    (\w+) = \"([\w/-]+)\"", tests, flags=re.MULTILINE)
    checked = {(attribute, name.partition("/")[0]) for _, attribute, name in held}
    for group, entries in project(package)["entry-points"].items():
        assert {(ATTRIBUTES[group], name) for name in entries} <= checked
        for name in entries:
            assert registry.installed(group)[name].distribution == package.name


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_package_tells_how_to_install_it_and_names_its_plugins(package):
    readme = (package / "README.md").read_text()
    assert readme.startswith(f"# {package.name}\n")
    assert f"pip install {package.name}" in readme
    for entries in project(package)["entry-points"].values():
        for name in entries:
            assert name in readme
    assert project(package)["name"] == package.name
    assert any(need.startswith("tlsearch") for need in project(package)["dependencies"])


def test_the_smallest_strategy_is_under_forty_lines():
    lengths = {}
    for package in PACKAGES:
        for name, target in project(package)["entry-points"].get("tlsearch.strategies", {}).items():
            source = package / "src" / f"{target.partition(':')[0].replace('.', '/')}.py"
            lengths[name] = len(
                (source if source.is_file() else source.with_suffix("") / "__init__.py")
                .read_text()
                .splitlines()
            )
    assert min(lengths.values()) < 40, lengths
