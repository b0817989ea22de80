"""``plugins new`` writes packages that work as they stand; ``plugins check`` gives a verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tlsearch import registry
from tlsearch.cli.app import app
from tlsearch.cli.plugins import NewKind
from tlsearch.contracts import FineTuning
from tlsearch.errors import InputError
from tlsearch.testing import CheckResult, fixtures
from tlsearch.testing.scaffold import scaffold

KINDS = ("strategy", "backbone", "dataset", "combination")


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of one new package of each kind, and the folder that they are installed in."""
    folder, site = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("site")
    for kind in KINDS:
        done = invoke("plugins", "new", f"fresh-{kind}", "--kind", kind, "-o", folder)
        assert done.exit_code == 0, done.output
    done = run(
        *("pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--no-build-isolation", "--target", site),
        *(folder / f"tlsearch-fresh-{kind}" for kind in KINDS),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder, site


def test_no_kind_is_offered_that_cannot_be_written():
    offered = invoke("plugins", "new", "fresh", "--kind", "task")
    assert offered.exit_code == 2
    assert "'task' is not one of 'strategy', 'backbone', 'dataset', 'combination'" in " ".join(
        offered.output.replace("│", " ").split()
    )
    assert tuple(NewKind) == KINDS


@pytest.mark.slow
def test_a_new_package_passes_its_own_tests(packages):
    folder, site = packages
    tests = [folder / f"tlsearch-fresh-{kind}" / "tests" for kind in KINDS]
    options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib")
    done = run("pytest", *options, *tests, cwd=folder, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stdout
    assert "36 passed" in done.stdout


@pytest.mark.slow
def test_a_new_package_keeps_the_contract_and_the_verdict_says_so(packages):
    folder, site = packages
    done = run("tlsearch", "plugins", "check", "fresh_strategy", cwd=folder, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stdout + done.stderr
    header, _, *rows = done.stdout.splitlines()
    assert header.split() == ["check", "ok", "seconds", "message"]
    assert all(row.split("  ")[0] and "FAILS" not in row for row in rows[:14])
    assert rows[-2:] == [
        "The strategy fresh_strategy of tlsearch-fresh-strategy 0.1.0: keeps the contract: 13 checks passed, "
        "1 wasn't applicable.",
        "Training was checked with classification.",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_short_and_clean(tmp_path, kind):
    package = scaffold(f"fresh-{kind}", kind=kind, parent=tmp_path)
    source = package / "src" / f"tlsearch_fresh_{kind}" / "__init__.py"
    assert len(source.read_text().splitlines()) < 40
    assert sorted(str(path.relative_to(package)) for path in package.rglob("*.*") if path.is_file()) == [
        "README.md",
        "pyproject.toml",
        f"src/tlsearch_fresh_{kind}/__init__.py",
        "tests/test_contract.py",
    ]
    done = run(
        "ruff", "check", "--isolated", "--select", "E,F,B,UP", "--line-length", 110, package, cwd=package
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "can't name a plugin"),
        ("My", "can't name a plugin"),
        ("a b", "can't name a plugin"),
        ("../up", "can't name a plugin"),
        ("1st", "can't name a plugin"),
        ("a__b", "can't name a plugin"),
        ("none", "can't name a plugin"),
        ("é", "can't name a plugin"),
        ("a" * 41, "can't name a plugin"),
        ("a\n", "can't name a plugin"),
        ("tlsearch-mine", "begins with tlsearch"),
        ("fine_tune", '"fine_tune" is taken by tlsearch'),
        ("fine-tune", '"fine_tune" is taken by tlsearch'),
    ],
)
def test_names_that_can_be_none_are_refused(tmp_path, name, said):
    with pytest.raises(InputError) as caught:
        scaffold(name, parent=tmp_path)
    assert said in caught.value.message
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path):
    mine = tmp_path / "tlsearch-mine"
    mine.mkdir()
    with pytest.raises(InputError, match="is there already") as caught:
        scaffold("mine", parent=tmp_path)
    assert caught.value.exit_code == 2
    assert list(mine.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is there already"):
        scaffold("other", parent=tmp_path / "file")
    with pytest.raises(InputError, match=r'no kind "strategi" of plugin\. Did you mean "strategy"'):
        scaffold("other", kind="strategi", parent=tmp_path)


def test_an_unknown_name_is_the_users_mistake(tmp_path):
    done = run("tlsearch", "plugins", "check", "fine_tun", cwd=tmp_path)
    assert done.returncode == 2
    assert 'No plugin is called "fine_tun". Did you mean "fine_tune"?' in done.stderr
    assert "Traceback" not in done.stderr


def test_plugins_alone_still_lists():
    names = {row["name"] for row in json.loads(invoke("plugins", "--json").stdout)}
    assert set(registry.installed(registry.STRATEGIES)) <= names
    assert "fine_tune" in invoke("plugins").stdout
    assert invoke("plugins", "--json", "check", "fine_tune").exit_code == 2


class Broken(FineTuning):
    def space(self, backbone):
        raise RuntimeError("no space left")


def test_what_fails_is_shown_and_ends_with_1(monkeypatch):
    with fixtures.installed(strategies={"broken": Broken}):
        monkeypatch.setattr(
            "tlsearch.testing.check_strategy",
            lambda name, params: [CheckResult("space", False, "RuntimeError: no space left", 0.1)],
        )
        done = invoke("plugins", "check", "broken")
        assert done.exit_code == 1
        assert "FAILS" in done.stdout
        assert "The strategy broken of tlsearch-under-test 1.0: 1 of 1 check failed." in done.stdout
        done = invoke("plugins", "check", "broken", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["ok"] is False


def test_one_cause_is_told_once_and_what_is_not_applicable_is_no_failure(monkeypatch):
    long = "the trial failed: KeyError: 'lambda'"
    results = [
        CheckResult("hooks", True, "", 0.1),
        CheckResult("trains", False, long, 0.1),
        CheckResult("finish", False, "other", 0.1),
        CheckResult("reloads", False, long, 0.1),
        CheckResult("many heads at once", True, "not checked: it is no head strategy", 0.1),
    ]
    monkeypatch.setattr("tlsearch.testing.check_strategy", lambda name, params: results)
    done = invoke("plugins", "check", "fine_tune")
    assert done.stdout.count(long) == 1
    assert [line.split("  ")[-1].strip() for line in done.stdout.splitlines() if "reloads" in line] == [
        'as "trains"'
    ]
    assert ": 3 of 5 checks failed, 1 wasn't applicable." in done.stdout
    told = json.loads(invoke("plugins", "check", "fine_tune", "--json").stdout)["checks"]
    assert [one["message"] for one in told].count(long) == 2


def test_a_source_that_lacks_its_keys_is_told_what_to_give():
    done = invoke("plugins", "check", "folder")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().endswith("only its options were checked; the rest needs --set path=....")
    assert "keeps the contract" not in done.stdout


class OldSource(fixtures.TinyDigits):
    api_version = 99


def test_a_source_that_does_not_load_fails_one_check():
    with fixtures.installed(datasets={"old": OldSource}):
        done = invoke("plugins", "check", "old")
    assert done.exit_code == 1, done.output
    assert "1 of 1 check failed." in done.stdout
    assert "was written for version 99" in done.stdout


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("dropuot=0.1", 'fine_tune has no hyperparameter "dropuot". Did you mean "dropout"?'),
        ("dropout=7", "fine_tune: dropout=7 is outside its space; right is 0 to 0.5."),
        ("optimizer=sgd", "fine_tune: optimizer='sgd' is outside its space; right is one of adamw."),
        ("dropout=much", "fine_tune: dropout='much' is outside its space; right is 0 to 0.5."),
    ],
)
def test_a_setting_that_no_study_could_have_is_refused(setting, said):
    done = invoke("plugins", "check", "fine_tune", "--set", setting)
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert done.exception.message == said
    assert "FAILS" not in done.output


def test_a_setting_is_one_of_the_space_of_either_tiny_backbone():
    """A rate that is too high for the transformer is usual for the CNN."""
    from tlsearch.testing import StrategyContract

    contract = type(
        "Rated", (StrategyContract,), {"strategy": "fine_tune", "params": {"learning_rate": 0.003}}
    )
    contract.setup_class()
    contract.teardown_class()


def test_a_name_of_two_kinds_is_checked_as_both_or_as_one(monkeypatch):
    for kind in ("backbone", "dataset"):
        good = [CheckResult(kind, True, "", 0.0)]
        monkeypatch.setattr(f"tlsearch.testing.check_{kind}", lambda *_, good=good, **__: good)
    kinds = [
        check["kind"]
        for check in json.loads(invoke("plugins", "check", "torchvision", "--json").stdout)["checks"]
    ]
    assert kinds == ["backbone", "dataset"]
    done = invoke("plugins", "check", "torchvision", "--kind", "dataset", "--json")
    assert [check["kind"] for check in json.loads(done.stdout)["checks"]] == ["dataset"]
