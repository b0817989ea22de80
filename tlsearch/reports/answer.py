"""The key figures of a study: which model, how good and how sure, at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tlsearch.models.intervals import Interval, over_groups, over_seeds, wilson
from tlsearch.records import HANDED_OUT, TrialRecord, TrialRole
from tlsearch.reports.baseline import Baseline, baseline_of
from tlsearch.reports.evidence import Evidence
from tlsearch.reports.formatting import made_of
from tlsearch.reports.intervals import of_items
from tlsearch.reports.learned import learned_from
from tlsearch.search.finalists import Finalist


@dataclass(frozen=True, slots=True)
class Answer:
    """What stands at the top of a report.

    Attributes:
        winner: the promoted trial, or the leading one; None before any has completed.
        metric: the study's, in words.
        test: all scores of the winner on the test set; empty before it was opened.
        test_value: the study's metric there.
        test_count: items of the test set.
        test_interval: of the share of right answers there.
        metric_interval: of the study's metric there.
        seeds: the winner's validation values by seed, its own first.
        mean: of these.
        error: its standard error.
        seed_interval: of the mean over seeds; None for a single one, and where the items tell more (shares).
        expected: what the mean is expected to be on other items: drawn towards the other finalists'.
        expected_interval: of that, as a share of right answers among the validation items.
        value_interval: of the winner's value as such a share, where it wasn't repeated.
        test_groups: what is to be told of the test items' groups beside an interval; empty without any.
        val_groups: likewise of the validation items.
        baseline: what one answer for all items scores; None where that isn't measured.
        learned_from: which labelled items the model has learned from, in words; empty without one.
        made_of: what the model that is handed out consists of, as a sentence; empty without one.
        runner_up: the next of the finalists.
        tied: how near the runner-up's mean is, where the runs don't tell the two apart; else empty.
        worker_seconds: work of all trials.
        images: pushed through networks, in whole or in part.
        flops: operations of that.
        served: trials that were trained with cached activations.
        right: test items that the model got right; None where that isn't what is measured.
    """

    winner: TrialRecord | None
    metric: str
    test: Mapping[str, float]
    test_value: float | None
    test_count: int
    test_interval: Interval | None
    metric_interval: Interval | None
    seeds: Sequence[float]
    mean: float | None
    error: float | None
    seed_interval: Interval | None
    expected: float | None
    expected_interval: Interval | None
    value_interval: Interval | None
    test_groups: str
    val_groups: str
    baseline: Baseline | None
    learned_from: str
    made_of: str
    runner_up: Finalist | None
    tied: str
    worker_seconds: float
    images: int
    flops: float
    served: int
    right: int | None

    @property
    def scale_from(self) -> float:
        """Where a bar that shows the interval begins: from 0 on, what matters would be a speck at its end."""
        low = self.test_interval.low if self.test_interval is not None else 0.0
        return max(0.0, math.floor(10 * low - 1) / 10)

    def scale(self, share: float) -> float:
        """Percent of that bar."""
        return round(100 * (share - self.scale_from) / (1 - self.scale_from), 2)


def _among_items(finalist: Finalist, *, repeated: bool) -> Interval | None:
    """Where values are shares of right answers, or like them; None where it was repeated or not otherwise."""
    share = finalist.expected if repeated else finalist.trial.value
    items = finalist.items
    return (
        wilson(share * items, items)
        if finalist.repeated == repeated and share is not None and items
        else None
    )


def _tied(first: Finalist, second: Finalist, tested: Interval | None) -> str:
    """Why their runs don't tell the two apart; empty where they do.

    What so few items do to a share is in its standard error. Of other metrics, such as errors in the targets'
    unit, the ``tested`` interval of the study's model alone says it.
    """
    apart = abs(first.mean - second.mean)
    if apart <= 2 * math.hypot(first.error, second.error):
        return "within two standard errors"
    if tested is not None and not first.items and apart <= (tested.high - tested.low) / 2:
        return "within the uncertainty of the test score"
    return ""


def _learned_from(evidence: Evidence) -> str:
    if evidence.model is None or evidence.winner is None:
        return ""
    refits = [trial for trial in evidence.trials if trial.role is TrialRole.REFIT]
    return learned_from(
        evidence.study, evidence.dataset, evidence.model, winner=evidence.winner, refits=refits
    )


def answer(evidence: Evidence) -> Answer:
    """The key figures, all from the database."""
    model, metric = evidence.model, evidence.study.metric
    scores = model.metrics if model is not None else {}
    test, val = dict(scores.get("test", {})), scores.get("val", {})
    count, chosen_by = (evidence.dataset.counts.get(split, 0) for split in ("test", "val"))
    shown = "accuracy"  # of a classifier; other tasks have no such metric
    right = round(test[shown] * count) if shown in test else None
    first, second = [*evidence.finalists, None, None][:2]
    costs = [trial.costs for trial in evidence.trials]
    return Answer(
        winner=evidence.winner,
        metric=evidence.metric_words,
        test=test,
        test_value=test.get(metric),
        test_count=count,
        test_interval=of_items(test, shown, count),
        metric_interval=of_items(test, metric, count),
        seeds=first.values if first else (),
        mean=first.mean if first else None,
        error=first.error if first else None,
        seed_interval=over_seeds(first.values) if first and not first.items else None,
        expected=first.expected if first else None,
        expected_interval=_among_items(first, repeated=True) if first else None,
        value_interval=_among_items(first, repeated=False) if first else None,
        test_groups=over_groups(test, shown if shown in test else metric, count),
        val_groups=over_groups(val, metric, chosen_by),
        baseline=baseline_of(evidence.study.audit, scores, shown if shown in test else metric),
        learned_from=_learned_from(evidence),
        made_of=made_of(scores.get(HANDED_OUT, {})),
        runner_up=second,
        tied=_tied(first, second, of_items(test, metric, count)) if first and second else "",
        right=right,
        worker_seconds=sum(cost.seconds for cost in costs),
        images=sum(cost.prefix_images + cost.suffix_images for cost in costs),
        flops=sum(cost.flops for cost in costs),
        served=sum(trial.cache.startswith("prefix") for trial in evidence.trials),
    )
