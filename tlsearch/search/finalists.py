"""The best few of a search, run again with fresh seeds, and which of them wins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from tlsearch.contracts import Metric
from tlsearch.contracts.combination import members_of
from tlsearch.records import Point, TrialRecord, TrialRole, TrialState

LIKENESS = 0.6
"""Trials of a strategy mostly err on the same items, so that the best of n by chance leads by less than the
best of n independent ones would. The best of 30 equal trials measured 9.3, 6.1 and 2.5 points too good at 20,
60 and 270 items."""
PROOF = 2.0
"""Standard errors by which a single run must lead to come before others that were repeated."""
NOTHING = 0.5
"""Standard errors of a value by which leading tells nothing: of 269 items at 0.98 one, of 100 at 0.85 one."""
LOSS_TIE = 0.05
"""Relative difference of losses within which the smaller model is taken."""


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trial with the values of its repeated runs; a trial that wasn't repeated has its own alone.

    The value that made a trial a finalist is the best of many and so too good on average: where there are
    others, it doesn't count.

    Attributes:
        trial: of the search.
        values: of the runs with fresh seeds.
        repeated: whether there were any.
        loss: mean of the same runs of what breaks ties, such as log-loss; smaller is better.
        items: of the validation split, where values are shares of right answers, or like them; else 0.
        luck: by how much its value is too good on average, as the best of its strategy's trials on the same
            items; 0 where it was repeated.
        expected: what its mean is expected to be on other items: less the luck; or where it was repeated the
            mean, drawn towards that of the other finalists by as much as chance explains their differences.
    """

    trial: TrialRecord
    values: tuple[float, ...]
    repeated: bool = False
    loss: float = math.inf
    items: int = 0
    luck: float = 0.0
    expected: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return statistics.fmean(self.values)

    @property
    def sober(self) -> float:
        """The mean without the luck."""
        return self.mean - self.luck

    @property
    def spread(self) -> float:
        """Standard error of the mean by the runs' own differences; 0 for a single run."""
        if len(self.values) < 2:
            return 0.0
        return statistics.stdev(self.values) / math.sqrt(len(self.values))

    @property
    def error(self) -> float:
        """Standard error of the mean: by the runs' differences, but no less than so few items allow.

        Runs that agree say nothing of the items that none of them saw. The share of right answers among n
        items has a binomial error, here with two answers added, one of them right: none in 20 wrong is no
        proof that none ever will be.
        """
        return max(self.spread, binomial(self.mean, self.items))


def binomial(share: float, items: int) -> float:
    """Standard error of a share of right answers among so many items; 0 without items."""
    if not items:
        return 0.0
    share = (share * items + 1) / (items + 2)
    return math.sqrt(max(0.0, share * (1 - share)) / (items + 2))


def _luck(value: float, *, tried: int, items: int) -> float:
    """By how much the best of so many like trials is too good on average.

    The largest of n normal draws is expected where Blom 1958 (Statistical Estimates and Transformed Beta
    Variables) puts it.
    """
    if tried < 2 or not items:
        return 0.0
    largest = statistics.NormalDist().inv_cdf((tried - 0.375) / (tried + 0.25))
    return LIKENESS * largest * binomial(value, items)


def standing(
    value: float, metrics: Mapping[str, float], *, size: int, number: int, minimize: bool, tie: Metric
) -> tuple[float, float, int, int]:
    """A key that is smaller for the better of two trials: by value, what breaks ties, parameters, number."""
    return value if minimize else -value, _loss(metrics, tie), size, number


def _loss(metrics: Mapping[str, float], tie: Metric) -> float:
    """The metric that breaks ties, as a number that is smaller for the better model."""
    return -tie.signed(metrics[tie.name]) if tie.name in metrics else math.inf


def trains(trial: TrialRecord) -> bool:
    """Whether a trial trained layers of the backbone, not a head alone."""
    return trial.freeze_depth is None or trial.freeze_depth != trial.groups


def leaders(best: Sequence[TrialRecord], *, many: int, items: int = 0, tie: Metric) -> list[TrialRecord]:
    """The finalists: the best trial of each strategy before the second best of any, in their order.

    Hundreds of heads against two trials that fine-tune have the luckiest of them ahead; so the best of those
    that train layers of the backbone is a finalist, wherever it stands. The best of a strategy is the one of
    least loss among those that the first of them leads by next to nothing.

    Args:
        best: complete trials, the best first.
        many: finalists.
        items: of the validation split, where values are shares of right answers; else 0.
        tie: what breaks ties.
    """
    of_strategy: dict[str, list[TrialRecord]] = {}
    for trial in best:
        of_strategy.setdefault(trial.strategy, []).append(trial)
    first = {name: _least_loss(trials, items, tie) for name, trials in of_strategy.items()}
    firsts = [trial for trial in best if first[trial.strategy] is trial]
    chosen = firsts[:many]
    trained = next((trial for trial in firsts if trains(trial)), None)
    if trained is not None and many > 1 and not any(map(trains, chosen)):
        chosen = [*chosen[: many - 1], trained]
    others = [trial for trial in best if trial not in chosen]
    chosen += others[: many - len(chosen)]
    return [trial for trial in best if trial in chosen]


def _least_loss(trials: Sequence[TrialRecord], items: int, tie: Metric) -> TrialRecord:
    """Of trials whose values chance could swap with the first one's, the one of least loss.

    An item more that is right says less than how probable all right answers were. Weights must be there.
    """
    lead = trials[0]
    if lead.value is None:
        return lead
    band = NOTHING * binomial(lead.value, items)
    near = [
        trial
        for trial in trials
        if trial.value is not None
        and abs(trial.value - lead.value) <= band
        and (trial.artifact is None) == (lead.artifact is None)
    ]
    return min(near, key=lambda trial: _loss(trial.metrics, tie))


def confirmations(
    finalists: Sequence[TrialRecord], existing: Sequence[TrialRecord], *, seeds: int, first_number: int
) -> list[Point]:
    """Points that repeat finalists with fresh seeds, less those that are there already.

    Args:
        finalists: the best trials of the search.
        existing: CONFIRM trials of the study; those that didn't end by themselves run again.
        seeds: how many fresh seeds for each.
        first_number: of the trials to be added.
    """
    points: list[Point] = []
    number = first_number
    for finalist in finalists:
        known = {trial.seed: trial for trial in existing if trial.confirms == finalist.number}
        for offset in range(1, seeds + 1):
            seed = finalist.seed + offset
            trial = known.get(seed)
            if trial is None:
                points.append(
                    Point(
                        number=number,
                        backbone=finalist.backbone,
                        strategy=finalist.strategy,
                        params=finalist.params,
                        seed=seed,
                        role=TrialRole.CONFIRM,
                        confirms=finalist.number,
                    )
                )
                number += 1
            elif trial.state in (TrialState.RUNNING, TrialState.CANCELLED):
                points.append(again(trial))
    return points


def again(trial: TrialRecord) -> Point:
    """The point of a trial that didn't end by itself, for another attempt."""
    return replace(trial.point, attempt=trial.attempt + 1)


def ranked(
    finalists: Sequence[TrialRecord],
    confirmed: Sequence[TrialRecord],
    *,
    minimize: bool,
    combined: Sequence[TrialRecord] = (),
    items: int = 0,
    tried: Mapping[str, int] = MappingProxyType({}),
    tie: Metric,
) -> list[Finalist]:
    """Finalists from the winner on: by the mean of their repeated runs, else by their value without its luck.

    Those whose means are within one standard error of the best are tied, by what the runs of all finalists
    say of chance, and by what so few validation items do. Of these a network that was fine-tuned comes before
    a head, as its refit on all labels is still to come (it gained two to three points on two data sets); then
    the one of least loss, which tells more than the count of right answers; where that is nearly equal, the
    smaller model. Those that time left without a repeated run come last where others were repeated, as one
    value may be luck; but not where it leads, without its luck, by more than `PROOF` standard errors.

    A combined trial has one value, on which it was chosen. It is taken to gain over each run of its first
    member what it gained over that member itself; where that is no finalist, over the best one. One that is
    worse than that is no candidate.

    Args:
        finalists: the best trials of the search.
        confirmed: CONFIRM trials.
        minimize: whether smaller is better.
        combined: trials made of others.
        items: of the validation split, where values are shares of right answers; else 0.
        tried: complete trials of each strategy.
        tie: what breaks ties.
    """
    counted = 0 if minimize else items
    candidates = [
        _finalist(trial, confirmed, counted, tried.get(trial.strategy, 1), tie)
        for trial in finalists
        if trial.value is not None
    ]
    sign = 1 if minimize else -1
    repeated = any(finalist.repeated for finalist in candidates)

    steady = max((one.sober for one in candidates if one.repeated), default=-math.inf)

    def place(finalist: Finalist) -> tuple[bool, float]:
        proved = finalist.items > 0 and finalist.sober - PROOF * finalist.error > steady
        return repeated and not finalist.repeated and not proved, sign * finalist.sober

    def order(finalist: Finalist) -> tuple[bool, float, float, int, int]:
        costs = finalist.trial.costs
        return *place(finalist), finalist.loss, costs.total_parameters, finalist.trial.number

    candidates.sort(key=order)
    candidates += _combined(combined, candidates, confirmed, tie, minimize=minimize)
    candidates.sort(key=order)
    chance = _chance(candidates)
    candidates = [replace(one, expected=_expected(one, candidates, chance)) for one in candidates]
    best = candidates[0]
    band = max(chance / math.sqrt(len(best.values)), best.error)
    tied = [f for f in candidates if place(f)[0] == place(best)[0] and abs(f.sober - best.sober) <= band]
    rest = [f for f in candidates if f not in tied]
    least = min(one.loss for one in [f for f in tied if trains(f.trial)] or tied)

    def cost(finalist: Finalist) -> tuple[bool, bool, int, float, int]:
        near = finalist.loss <= least + LOSS_TIE * abs(least)
        return (
            not trains(finalist.trial),
            not near,
            finalist.trial.costs.total_parameters,
            finalist.loss,
            finalist.trial.number,
        )

    return sorted(tied, key=cost) + rest


def _finalist(
    trial: TrialRecord, confirmed: Sequence[TrialRecord], items: int, tried: int, tie: Metric
) -> Finalist:
    runs = [
        other
        for other in confirmed
        if other.confirms == trial.number and other.state is TrialState.COMPLETE and other.value is not None
    ]
    counted = runs or [trial]
    return Finalist(
        trial,
        tuple(run.value for run in counted if run.value is not None),
        repeated=bool(runs),
        loss=statistics.fmean(_loss(run.metrics, tie) for run in counted),
        items=items,
        luck=0.0 if runs or trial.value is None else _luck(trial.value, tried=tried, items=items),
    )


def _chance(candidates: Sequence[Finalist]) -> float:
    """Standard deviation of one run's value, pooled over finalists: two or three runs of one say little."""
    variances = [statistics.variance(one.values) for one in candidates if len(one.values) > 1]
    return math.sqrt(statistics.fmean(variances)) if variances else 0.0


def _expected(finalist: Finalist, candidates: Sequence[Finalist], chance: float) -> float:
    """The mean shrunk towards its like (James and Stein 1961), as the best of several is partly luck."""
    like = [one.mean for one in candidates if one.repeated == finalist.repeated]
    if len(like) < 2 or not finalist.repeated:
        return finalist.sober
    grand, between = statistics.fmean(like), statistics.variance(like)
    noise = chance**2 / len(finalist.values)
    kept = max(0.0, 1 - noise / between) if between > 0 else 1.0
    return grand + kept * (finalist.mean - grand)


def _combined(
    combined: Sequence[TrialRecord],
    finalists: Sequence[Finalist],
    confirmed: Sequence[TrialRecord],
    tie: Metric,
    *,
    minimize: bool,
) -> list[Finalist]:
    """Combined trials beside finalists, which stand best first; those that lost by it are left out.

    Their log-loss would rank them first: a mean of weights is less sure of all that it says, right or wrong.
    """
    runs = {finalist.trial.number: (finalist.trial, finalist) for finalist in finalists}
    for trial in confirmed:
        if trial.confirms in runs:
            runs[trial.number] = (trial, runs[trial.confirms][1])
    found = []
    for trial in combined:
        run, base = runs.get(members_of(trial.params)[0], (finalists[0].trial, finalists[0]))
        if trial.value is not None and run.value is not None:
            gain = trial.value - run.value
            if gain * (-1 if minimize else 1) < 0:
                continue
            lost = _loss(trial.metrics, tie) - _loss(run.metrics, tie)
            values = tuple(value + gain for value in base.values)
            loss = base.loss + lost if math.isfinite(lost) else math.inf
            found.append(replace(base, trial=trial, values=values, loss=loss))
    return found
