"""The contract of a data set source, as tests to inherit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tlsearch import registry, spec
from tlsearch.contracts import DatasetOptions, DatasetSource, Samples
from tlsearch.contracts.dataset import SPLITS
from tlsearch.contracts.task import EARLIEST
from tlsearch.counts import kind_of, plural
from tlsearch.errors import DataError, SpecError, TlsearchError
from tlsearch.testing import fixtures
from tlsearch.testing.contract import CheckResult, Contract, checked, demand, in_fresh_process, skip
from tlsearch.training import sources
from tlsearch.training.listed import Listed
from tlsearch.training.splits import split

LOOKED_AT = 64
"""Items that are opened and decoded; all are hashed and split."""


class DatasetContract(Contract):
    """All that a data set source promises. Inherit it, say which one, and let pytest run it.

    Attributes:
        dataset: the name of its entry point.
        options: its own keys in a study's data section.
    """

    dataset: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    _listed: ClassVar[Listed | None] = None
    _loaded: ClassVar[Samples | None] = None

    @classmethod
    def _find(cls) -> None:
        """Find the source."""
        registry.dataset(cls.dataset)
        cls._listed = cls._loaded = None

    def test_options(self) -> None:
        """Its keys are a DatasetOptions, which refuses unknown ones."""
        kind = self._source.options
        demand(issubclass(kind, DatasetOptions), f"options is {kind.__name__}, no DatasetOptions")
        try:
            sources.listing(self._described(no_such_key=1))
        except SpecError as error:
            demand("no_such_key" in error.message, f"an unknown key is refused without its name: {error}")
            self.note(f"keys: {', '.join(kind.model_fields) or 'none'}")
            return
        raise AssertionError("a key that it doesn't know is taken")

    def test_samples(self) -> None:
        """Items, targets and names are of one length; labels are indices into unique class names.

        Targets without a spec are raw: the task finds out what they are.
        """
        samples = self._samples
        count = len(samples.items)
        demand(count > 0, "it lists no items; load() should raise DataError where nothing is there")
        for name in ("targets", "names", "splits", "groups", "times"):
            values = getattr(samples, name)
            demand(
                values is None or len(values) == count,
                f"{name} hasn't {plural(count, 'entry', 'entries')}, as items has",
            )
        others = set(samples.splits or ()) - set(SPLITS)
        demand(not others, f"splits holds {sorted(others)[:1]}; right are train, val and test")
        raw = samples.spec is None
        if raw:
            samples = self._found.samples
            self.note(f"raw targets, described by {self._source.task}")
        if self._source.task != EARLIEST:
            self.note(f"{plural(count, 'item')} for {self._source.task}")
            return
        classes = samples.classes
        found = plural(len(classes), "class", "classes")
        demand(len(classes) >= 2, f"it has {found}; it takes two to tell apart")
        demand(len(set(classes)) == len(classes), "a class name stands twice in classes")
        labels = np.asarray(samples.targets).tolist() if raw else list(samples.targets)
        odd = [label for label in labels if isinstance(label, bool) or not isinstance(label, int)]
        demand(not odd, f"labels holds {odd[:1]}, which is no int")
        outside = [label for label in labels if not 0 <= label < len(classes)]
        demand(not outside, f"labels holds {outside[:1]}, of {len(classes)} classes")
        empty = [name for index, name in enumerate(classes) if index not in set(labels)]
        demand(not empty, f"no item is of the class {empty[:1]}")
        self.note(f"{plural(count, 'item')}, {found}")

    def test_items(self) -> None:
        """Items are paths, arrays, text or bytes, and the same each time that they are looked at."""
        samples = self._samples
        for index in self._some():
            first, second = samples.items[index], samples.items[index]
            called = samples.names[index]
            kinds = (Path, np.ndarray, str, bytes)
            demand(isinstance(first, kinds), f"{called} is {kind_of(first)}")
            if isinstance(first, Path):
                demand(first.is_file(), f"{called}: {first} is no file")
            same = np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second
            demand(same, f"{called} is another item at the second look")

    def test_decodes(self) -> None:
        """Its items become input of a backbone."""
        if self._source.modality != "image":
            raise skip(f"tlsearch itself knows no backbone for {self._source.modality}")
        inputs = fixtures.tiny_cnn().info.inputs
        broken = []
        for index in self._some():
            try:
                inputs.encode(self._samples.items[index])
            except DataError as error:
                broken.append(f"{self._samples.names[index]}: {error.message}")
        looked_at = len(self._some())
        demand(len(broken) <= 0.05 * looked_at, f"{len(broken)} of {looked_at} don't decode: {broken[:1]}")

    def test_splits(self) -> None:
        """It can be split into train, stop, val and test, and none is empty."""
        listed = self._found
        parts = split(listed.samples, listed.hashes, listed.strata, val=0.15, test=0.15, stop=0.1, seed=0)
        sizes = {name: len(indices) for name, indices in parts.items()}
        demand(all(sizes.values()), f"a split is empty: {sizes}")
        self.note(", ".join(f"{size} {name}" for name, size in sizes.items()))

    def test_same_data_again(self) -> None:
        """Listed again, here and in a fresh process, it is the same data."""
        first = self._found
        again = sources.listing(self._described())
        demand(again.fingerprint == first.fingerprint, "listed twice, it is other data")
        demand(list(again.samples.names) == list(first.samples.names), "listed twice, the order is another")
        document = {"source": self.dataset, **self._json_options()}
        found = in_fresh_process(self._folder, {"kind": "dataset", "data": document})
        demand(found["fingerprint"] == first.fingerprint, "a fresh process lists other data")

    @property
    def _source(self) -> DatasetSource[Any]:
        return registry.dataset(self.dataset)

    def _json_options(self) -> dict[str, Any]:
        return {name: str(v) if isinstance(v, Path) else v for name, v in self.options.items()}

    def _described(self, **more: Any) -> spec.DataSpec:
        data = {"source": self.dataset, **self._json_options(), **more}
        return spec.parse({"study": "contract", "data": data, "backbones": [fixtures.CNN]}).data

    @property
    def _found(self) -> Listed:
        if self._listed is None:
            self._ask_for_options()
            try:
                type(self)._listed = sources.listing(self._described())
            except TlsearchError as error:
                raise AssertionError(f"it can't be listed: {error.message}") from error
        assert self._listed is not None
        return self._listed

    @property
    def _samples(self) -> Samples:
        if self._loaded is None:
            self._ask_for_options()
            try:
                type(self)._loaded = sources.loaded(self._described())
            except TlsearchError as error:
                raise AssertionError(f"it can't be listed: {error.message}") from error
        loaded = self._loaded
        demand(isinstance(loaded, Samples), f"load() returned {kind_of(loaded)}, not Samples")
        assert loaded is not None
        return loaded

    def _ask_for_options(self) -> None:
        if missing := missing_options(self.dataset, self.options):
            raise skip(f"it needs {', '.join(missing)} (`--set {missing[0]}=...`)")

    def _some(self) -> list[int]:
        count = len(self._samples.items)
        return list(range(0, count, max(1, count // LOOKED_AT)))[:LOOKED_AT]


def missing_options(dataset: str, options: Mapping[str, Any]) -> list[str]:
    """Keys that a source needs and isn't given: without them nothing but its keys can be checked."""
    fields = registry.dataset(dataset).options.model_fields.items()
    return [name for name, field in fields if field.is_required() and name not in options]


def check_dataset(dataset: str, options: Mapping[str, Any] | None = None) -> list[CheckResult]:
    """Run the contract of a data set source, without pytest.

    Args:
        dataset: its name.
        options: its own keys in a study's data section.

    Raises:
        UnknownNameError: nothing installed goes by that name.
    """
    return checked(DatasetContract, dataset=dataset, options=dict(options or {}))
