"""A prediction as plain data, whose names can be asked for as keys or as attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Prediction(Mapping[str, Any]):
    """What a model says of one item, as JSON holds it; its keys are attributes as well.

    ``item`` is how the item is called, ``error`` why it couldn't be read, or None. The rest is the task's:
    for classes ``label``, its ``probability``, and ``probabilities`` by class, falling.
    """

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._told = dict(told)

    def __getitem__(self, key: str) -> Any:
        return self._told[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._told:
            raise AttributeError(f"a prediction has no {name!r}")
        return self._told[name]

    def __repr__(self) -> str:
        return f"Prediction({', '.join(f'{key}={value!r}' for key, value in self._told.items())})"
