"""A plugin from nowhere: written from the README, installed by pip, searched beside all others, taken away.

It lives in a throw-away environment that sees this one's packages and adds to them. Where neither a new
process nor Ray is the matter, commands run in the tests' process, which is shown the environment's folder.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import Place

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "tiny"
PACKAGE = "tlsearch-modest"
MINUTES = 12.0
TRIALS = 2
"""For each strategy: a third of the work goes to first trials."""


class Elsewhere(Place):
    """A working directory whose commands run in an environment of their own."""

    site: Path = Path()

    def here(self, *arguments: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        return super().here(*arguments, code=code, PYTHONPATH=f"{self.site}:{TINY}", **env)

    def pip(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check"]
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def strategies(self) -> dict[str, str]:
        """Packages of the strategies that are installed, by name."""
        rows = json.loads(self.run("strategies", "--json").stdout)
        return {row["name"]: row["package"] for row in rows if row["kind"] == "strategy"}


def write_package(folder: Path) -> Path:
    """The README's ten lines and its entry point, and what pip asks for."""
    readme = (ROOT / "README.md").read_text()
    (source,) = re.findall(r"```python\n(from tlsearch.contracts .*?)```", readme, flags=re.DOTALL)
    (entry,) = re.findall(r"```toml\n(.*?)```", readme, flags=re.DOTALL)
    ((name, target),) = tomllib.loads(entry)["project"]["entry-points"]["tlsearch.strategies"].items()
    module, _, kind = target.partition(":")
    assert (name, f"class {kind}(" in source) == ("modest", True)
    folder.mkdir()
    (folder / f"{module}.py").write_text(source)
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n\n'
        f'[project]\nname = "{PACKAGE}"\nversion = "0.1.0"\ndependencies = ["tlsearch>=0.1"]\n\n'
        f'{entry}\n[tool.setuptools]\npy-modules = ["{module}"]\n'
    )
    return folder


def write_digits(folder: Path, first: int, count: int) -> Path:
    """Some of scikit-learn's handwritten digits, as a folder of class folders."""
    digits = load_digits()
    for index in range(first, first + count):
        place = folder / str(digits.target[index])
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("foreign")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    # As a folder of packages and not just a path, so that those installed in place are found as well.
    shared = sysconfig.get_path("purelib")
    (site / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
    here = Elsewhere(
        folder / "work", write_digits(folder / "digits", 0, 300), environment, python=str(python)
    )
    here.site = site
    write_digits(folder / "more", 300, 100)
    yield here
    here.end_all()


@pytest.fixture(scope="module")
def strategies(place):
    """What was installed before pip brought the package, and after it."""
    before = place.strategies()
    place.pip("install", "--no-deps", "--no-build-isolation", write_package(place.folder.parent / PACKAGE))
    return before, place.strategies()


def test_pip_makes_it_a_strategy_and_leaves_the_shared_environment_alone(strategies):
    before, after = strategies
    assert after == {**before, "modest": PACKAGE}
    command = [sys.executable, "-m", "tlsearch", "strategies", "--json"]
    shared = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert set(before) <= {row["name"] for row in shared}
    assert "modest" not in {row["name"] for row in shared}


@pytest.mark.timeout(1500)
def test_all_that_is_installed_is_searched_within_the_budget(place, strategies):
    # Strategies that a study names are all tried. The tiny network has no classifier for co_tuning, and
    # decoder_probe learns masks.
    after = sorted(set(strategies[1]) - {"co_tuning", "decoder_probe"})
    study = place.study(
        study="all",
        strategies=after,
        source_data={"source": "folder", "path": str(place.folder.parent / "more")},
        data={"image_size": 16},
        backbones=["tiny/net"],
        budget={"trials": TRIALS * len(after), "epochs": 1, "minutes": MINUTES},
        resources={"concurrent": 1},
        search={"finalists": 1, "confirm_seeds": 0},
    )
    best = json.loads(place.here("run", study, "--json").stdout)
    trials = place.ask("trials", "all")
    ended = {"COMPLETE", "PRUNED", "FAILED", "CANCELLED"}
    assert all(trial["state"] in ended and trial["reason"] for trial in trials)
    for name in after:
        of_it = [trial for trial in trials if trial["strategy"] == name]
        assert of_it, f"{name} wasn't tried"
        assert any(t["state"] in ("COMPLETE", "PRUNED") for t in of_it), (name, [t["reason"] for t in of_it])
    searching = [trial for trial in trials if trial["role"] == "search" and trial["strategy"] in after]
    assert len(after) < len(searching) <= TRIALS * len(after)
    (study,) = [study for study in place.ask("studies") if study["name"] == "all"]
    assert study["state"] == "COMPLETE"
    assert study["seconds"] <= 60 * MINUTES + 5
    assert best["trial"] in {trial["number"] for trial in searching if trial["state"] == "COMPLETE"}
    assert {"name": "modest", "distribution": PACKAGE, "version": "0.1.0"}.items() <= next(
        plugin for plugin in study["plugins"] if plugin["name"] == "modest"
    ).items()
    assert "modest" in place.here("trials", "all", "--strategy", "modest").stdout


def test_its_best_model_predicts_while_it_is_installed_and_names_it_when_not(place, strategies):
    assert "modest" in strategies[1]
    study = place.study(
        study="mine",
        strategies=["modest"],
        budget={"trials": 1, "epochs": 2},
        search={"finalists": 1, "confirm_seeds": 0},
    )
    best = json.loads(place.run("run", study, "--json").stdout)
    assert (best["strategy"], best["trial"]) == ("modest", 0)
    image = next((place.images / "3").iterdir())
    predicted = place.ask("predict", "mine", image)
    assert predicted[0]["label"] in {str(digit) for digit in range(10)}

    place.pip("uninstall", "--yes", PACKAGE)
    assert "modest" not in place.strategies()
    said = place.here("predict", "mine", image, code=2).stderr
    assert 'Unknown strategy "modest"' in said
    assert f"was made with {PACKAGE} 0.1.0: install it" in said
    assert [trial["strategy"] for trial in place.ask("trials", "mine")] == ["modest"]

    place.pip("install", "--no-deps", "--no-build-isolation", place.folder.parent / PACKAGE)
    assert place.ask("predict", "mine", image) == predicted
