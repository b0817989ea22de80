"""Data sets that break the contract are told so, check by check."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tlsearch.contracts import DatasetOptions
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


@pytest.mark.parametrize(
    ("source", "check", "wanted"),
    [
        (Lenient, "options", "a key that it doesn't know is taken"),
        (Short, "samples", "labels hasn't 300 entries"),
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
