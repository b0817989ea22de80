"""Data sets that break the contract are told so, check by check."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tlsearch.contracts import DatasetOptions, DatasetSource, Samples
from tlsearch.testing import DatasetContract, check_dataset, fixtures


class TestDigits(DatasetContract):
    dataset = "digits"


class Changed(fixtures.TinyDigits):
    """The tiny digits with something else instead."""

    more: dict = {}

    def load(self, options):
        samples = super().load(fixtures.TinyDigitsOptions(count=options.count))
        return replace(samples, **{name: make(samples) for name, make in self.more.items()})


class Lenient(Changed):
    class options(DatasetOptions):
        model_config = {"extra": "ignore"}
        count: int = 60


class Short(Changed):
    more = {"labels": lambda samples: samples.labels[:-1]}


class Floats(Changed):
    more = {"labels": lambda samples: [float(label) for label in samples.labels]}


class Outside(Changed):
    more = {"labels": lambda samples: [label + 1 for label in samples.labels]}


class Empty(Changed):
    more = {"items": lambda _: [], "labels": lambda _: [], "names": lambda _: []}


class OddSplits(Changed):
    more = {"splits": lambda samples: ["dev"] * len(samples.items)}


class Missing(Changed):
    more = {"items": lambda samples: [Path("/no/such.png")] * len(samples.items)}


class Unreadable(Changed):
    more = {"items": lambda samples: [b"no picture"] * len(samples.items)}


class Moving(Changed):
    turns = itertools.count()

    def load(self, options):
        return fixtures.TinyDigits().load(fixtures.TinyDigitsOptions(first=next(self.turns)))


class Raw(Changed):
    """Names of classes, which the task is to number."""

    more = {
        "targets": lambda samples: [f"digit {label}" for label in samples.targets],
        "spec": lambda _: None,
    }


class RawOfOneKind(Changed):
    more = {"targets": lambda samples: ["digit"] * len(samples.items), "spec": lambda _: None}


class ListedOptions(DatasetOptions):
    path: Path
    more: tuple[Path, ...] = ()
    label: str | None = None


class Listed(DatasetSource[ListedOptions]):
    """Pictures that a JSON file names, with their classes."""

    options = ListedOptions

    def load(self, options):
        named = json.loads(options.path.read_text())
        places = [options.path.parent / name for name in named]
        assert all(isinstance(place, Path) for place in options.more)
        return Samples(items=places, targets=list(named.values()), names=list(named))


@pytest.mark.parametrize(
    ("source", "check", "wanted"),
    [
        (Lenient, "options", "a key that it doesn't know is taken"),
        (Short, "samples", "targets hasn't 300 entries"),
        (RawOfOneKind, "samples", "it has 1 class; it takes two"),
        (Floats, "samples", "labels holds [0.0], which is no int"),
        (Outside, "samples", "labels holds [10], of 10 classes"),
        (Empty, "samples", "it lists no items"),
        (OddSplits, "samples", "splits holds ['dev']"),
        (Missing, "items", "/no/such.png is no file"),
        (Unreadable, "decodes", "64 of 64 don't decode"),
        (Moving, "same_data_again", "listed twice, it is other data"),
    ],
)
def test_a_broken_data_set_is_told_what_is_wrong(source, check, wanted):
    with fixtures.installed(datasets={"broken": source}):
        contract = type("Broken", (DatasetContract,), {"dataset": "broken"})
        contract.setup_class()
        try:
            with pytest.raises(AssertionError) as caught:
                getattr(contract(), f"test_{check}")()
        finally:
            contract.teardown_class()
    assert wanted in str(caught.value)


def test_options_are_given_or_asked_for(tmp_path):
    found = {result.check: result for result in check_dataset("folder")}
    assert found["samples"].message == "not checked: it needs path (`--set path=...`)"
    for name, number in itertools.product("ab", range(12)):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (number, ord(name), 0)).save(tmp_path / name / f"{number}.png")
    found = {result.check: result for result in check_dataset("folder", {"path": tmp_path})}
    assert all(result.ok for result in found.values()), found
    assert found["samples"].message == "24 items, 2 classes"


def test_raw_targets_are_described_by_the_task():
    with fixtures.installed(datasets={"raw": Raw}):
        found = {result.check: result for result in check_dataset("raw")}
    assert all(result.ok for result in found.values()), found
    assert found["samples"].message == "raw targets, described by classification; 300 items, 10 classes"


def test_a_source_may_list_files_from_a_path(tmp_path):
    named = {f"{number}.png": f"kind {number % 2}" for number in range(24)}
    for number, name in enumerate(named):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / name)
    (tmp_path / "list.json").write_text(json.dumps(named))
    given = {"path": str(tmp_path / "list.json"), "more": ["a", "b"], "label": "text stays text"}
    with fixtures.installed(datasets={"listed": Listed}):
        found = {result.check: result for result in check_dataset("listed", given)}
        assert all(result.ok for result in found.values()), found
        (tmp_path / "list.json").write_text("{")
        broken = {result.check: result for result in check_dataset("listed", given)}
        wrong = {result.check: result for result in check_dataset("listed", {**given, "more": [1]})}
    assert (
        "data set source 'listed' of tlsearch-under-test 1.0 failed: JSONDecodeError"
        in broken["samples"].message
    )
    assert "data.more.0: input should be an instance of Path, got 1" in wrong["samples"].message
