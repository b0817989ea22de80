"""The same seed on one worker: the same points with the same scores."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_same_seed_same_search(place):
    study = place.study(resources={"concurrent": 1}, budget={"trials": 7}, search={"confirm_seeds": 0})

    def search(name: str):
        place.here(
            "run", study, "--db", f"sqlite:///{place.folder / name}.db", "--artifacts", place.folder / name
        )
        trials = place.ask("trials", "tiny", "--db", f"sqlite:///{place.folder / name}.db")
        return [
            (
                trial["number"],
                trial["state"],
                trial["strategy"],
                trial["params"],
                trial["value"],
                trial["metrics"],
            )
            for trial in trials
        ]

    assert search("first") == search("second")
