"""How a study grew: the studies that it extends, the first one first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from tlsearch.database.store import Store
from tlsearch.records import TrialRole, TrialState
from tlsearch.search.registration import lineage


@dataclass(frozen=True, slots=True)
class Version:
    """A study of a line of them, each of which extends the one before.

    Attributes:
        study: its name.
        items: that can be used.
        more: than the study before it has; 0 for the first.
        new_names: of targets that the study before it doesn't know, such as classes.
        trials: complete ones of its search.
        val: the metric on the validation items, before the refit; None without a model.
        test: the metric of the model on the test items; None where there are none.
    """

    study: str
    items: int
    more: int
    new_names: tuple[str, ...]
    trials: int
    val: float | None
    test: float | None


def versions(store: Store, study: str) -> list[Version]:
    """The studies that one extends, and itself, the first one first; empty where it extends none.

    Raises:
        UnknownNameError: there is no such study.
    """
    metric = store.study(study).metric
    line = reversed(list(lineage(store, study)))
    # Forks share their parent's data: of these the one that was extended counts.
    records = [list(same)[-1] for _, same in groupby(line, key=lambda record: record.fingerprint)]
    found: list[Version] = []
    names: tuple[str, ...] = ()
    for record in records if len(records) > 1 else ():
        dataset, model = store.dataset(record.fingerprint), store.model(record.name)
        scores = model.metrics if model is not None else {}
        items = sum(dataset.counts.values())
        found.append(
            Version(
                study=record.name,
                items=items,
                more=items - found[-1].items if found else 0,
                new_names=tuple(name for name in dataset.names if name not in names) if found else (),
                trials=len(store.trials(record.name, role=TrialRole.SEARCH, states=[TrialState.COMPLETE])),
                val=scores.get("val", {}).get(metric),
                test=scores.get("test", {}).get(metric),
            )
        )
        names = dataset.names
    return found
