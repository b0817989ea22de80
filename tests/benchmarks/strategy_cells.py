"""One cell of the comparison of strategies: a study with one strategy, on one data set, from one seed.

The study is run as anybody runs one: `tlsearch.run` with its driver, sampler, workers' code, database, bundle
and check of the bundle. Only processes are saved: trials are run one after another in this process, where
backbones stay warm, instead of on Ray's workers, and the bundle is checked here, too. Nothing is pruned:
budgets are to be equal.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tlsearch
from tests.benchmarks.bench import BACKBONE, FASHION
from tests.one_process import one_process, verify_here
from tlsearch import registry
from tlsearch.contracts import Pretrained
from tlsearch.database.store import Store
from tlsearch.errors import TlsearchError

IMAGE_SIZE = 48
"""The smallest at which the backbone ends in 2 x 2 places, as it does at 64."""
TEST_ITEMS = 2_000


@dataclass(frozen=True)
class Case:
    """A data set with its budget, the same for every strategy.

    Attributes:
        name: in tables.
        described: what it is, for people.
        trials: of each study.
        epochs: of each trial.
        seeds: how many studies, each with a split, a subset and weights of its own.
        data: makes the study file's section, for a seed and a folder to write in.
        source: the same for the source data of strategies that need some.
        missing: why it can't be had on this machine, or empty.
    """

    name: str
    described: str
    trials: int
    epochs: int
    seeds: int
    data: Callable[[int, Path], dict[str, Any]]
    source: Callable[[int], dict[str, Any]]
    missing: Callable[[], str] = str
    image_size: int = IMAGE_SIZE

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results comparable: a cell of other settings is run anew."""
        return {"trials": self.trials, "epochs": self.epochs, "image_size": self.image_size}


def _fashion(items: int) -> Callable[[int, Path], dict[str, Any]]:
    return lambda seed, folder: {
        "source": "fashion_mnist",
        "path": FASHION,
        "train_items": items,
        "test_items": TEST_ITEMS,
        "seed": seed,
    }


def _digits(seed: int, folder: Path | None = None) -> dict[str, Any]:
    return {"source": "digits"}


def _no_fashion() -> str:
    there = Path(FASHION).is_dir()
    return "" if there else f"{FASHION} isn't here; Debian's package dataset-fashion-mnist brings it"


def _no_cells() -> str:
    there = importlib.util.find_spec("elpv_dataset") is not None
    return "" if there else "pip install elpv-dataset brings it (91 MB)"


def _solar_cells(seed: int, folder: Path) -> dict[str, Any]:
    """Cells that are surely intact or surely broken, as a table of the package's own files."""
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(_no_cells())
    root = Path(found.origin).parent / "data"
    names = {"0.0": "intact", "1.0": "broken"}
    rows = [line.split() for line in (root / "labels.csv").read_text().splitlines() if line.strip()]
    lines = [f"{image},{names[defect]}" for image, defect, _ in rows if defect in names]
    table = folder / "solar_cells.csv"
    table.write_text("\n".join(["image,label", *lines]) + "\n")
    return {"source": "table", "path": str(table), "root": str(root)}


def _few_clothes(seed: int) -> dict[str, Any]:
    return _fashion(600)(seed, Path()) if not _no_fashion() else _digits(seed)


CASES = (
    Case("digits", "scikit-learn's 1,797 digits of 8 x 8 pixels", 2, 3, 3, _digits, _few_clothes),
    Case(
        "clothes 1 %",
        "Fashion-MNIST, 600 of its 60,000 training items",
        *(2, 6, 3),
        _fashion(600),
        _digits,
        _no_fashion,
    ),
    Case(
        "solar cells",
        "ELPV (Buerhop-Lutz et al. 2018): 2,223 electroluminescence images of intact and broken solar cells",
        *(2, 3, 3),
        _solar_cells,
        _few_clothes,
        _no_cells,
    ),
    Case(
        "clothes 10 %",
        "Fashion-MNIST, 6,000 of its 60,000 training items",
        *(2, 2, 2),
        _fashion(6_000),
        _digits,
        _no_fashion,
    ),
    Case(
        "clothes 100 %, capped",
        "Fashion-MNIST, capped at 20,000 of its 60,000 training items and at one trial",
        *(1, 2, 2),
        _fashion(20_000),
        _digits,
        _no_fashion,
    ),
)
QUICK = Case(
    "digits, quick",
    "scikit-learn's digits at 32 pixels",
    2,
    1,
    1,
    _digits,
    lambda seed: _digits(seed),
    str,
    32,
)


@dataclass
class Bench:
    """A process in which studies run one after another and backbones stay loaded."""

    folder: Path
    loaded: dict[str, Pretrained] = field(default_factory=dict)

    def run(self, case: Case, strategy: str, seed: int) -> dict[str, Any]:
        """Run a cell; what goes wrong is in it as ``error``."""
        began, cpu = time.time(), time.process_time()
        try:
            told = self._study(case, strategy, seed)
        except TlsearchError as error:
            told = {"error": error.message}
        return {
            "case": case.name,
            "strategy": strategy,
            "package": registry.version_of(registry.STRATEGIES, strategy).distribution,
            "version": registry.version_of(registry.STRATEGIES, strategy).version,
            "seed": seed,
            "settings": case.settings,
            **told,
            "seconds": round(time.time() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }

    def _study(self, case: Case, strategy: str, seed: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="tlsearch-cell-") as name, self._one_process():
            place = Path(name)
            spec: dict[str, Any] = {
                "study": "cell",
                "data": {**case.data(seed, place), "image_size": case.image_size},
                "backbones": [BACKBONE],
                "strategies": [strategy],
                "budget": {"trials": case.trials, "epochs": case.epochs},
                "resources": {"concurrent": 1, "gpus_per_trial": 0.0},
                "search": {"pruner": "none", "finalists": 1, "confirm_seeds": 0},
                "seed": seed,
            }
            if registry.strategy(strategy).requires_source:
                spec["source_data"] = case.source(seed)
            database = f"sqlite:///{place / 'cell.db'}"
            result = tlsearch.run(spec, db=database, artifacts=place / "artifacts")
            if result.signal:
                raise KeyboardInterrupt
            if result.model is None or result.best is None:
                return {"error": result.interrupted or "no model"}
            with Store.open(database) as store:
                trials = store.trials("cell")
                counts = store.dataset(result.study.fingerprint).counts
            return {
                "test": result.model.metrics["test"]["accuracy"],
                "validation": result.model.metrics["val"]["accuracy"],
                "freeze_depth": result.best.freeze_depth,
                "trained": result.best.costs.trainable_parameters,
                "params": dict(result.best.params),
                "states": sorted(trial.state.value for trial in trials),
                "items": dict(counts),
            }

    def _one_process(self) -> contextlib.AbstractContextManager[None]:
        os.environ.setdefault("TLSEARCH_CACHE", str(self.folder / "cache"))
        return one_process(verify=verify_here)
