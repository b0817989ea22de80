from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tlsearch import registry
from tlsearch.records import Costs, EpochRecord, TrialRecord, TrialRole, TrialState
from tlsearch.search import history
from tlsearch.search import space as spaces
from tlsearch.search.sampler import Proposal, Sampler
from tlsearch.search.space import Branch, SearchSpace

INFO = registry.backbone("tiny/net", weights="pretrained", image_size=None).info
COMPLETE, PRUNED, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED
KINDS = ["tpe", "random", "grid"]


def real() -> SearchSpace:
    names = ("linear_probe", "fine_tune", "feature_copy")
    infos = [INFO, replace(INFO, name="tiny/other")]
    return spaces.build({name: registry.strategy(name) for name in names}, infos, {})


def small(*, heads: bool = False) -> SearchSpace:
    """Twelve points of one branch."""
    hyperparameters = {"k": IntDistribution(1, 6), "side": CategoricalDistribution(["left", "right"])}
    return SearchSpace((Branch("tiny/net", "small", hyperparameters, ({"k": 3, "side": "left"},), heads),))


def sampler(space: SearchSpace, kind: str = "tpe", *, minimize: bool = False, seed: int = 0) -> Sampler:
    return Sampler(space, kind=kind, minimize=minimize, seed=seed)


def quality(proposal: Proposal) -> float:
    """Something to find: a learning rate of 1e-3 is best, whatever else."""
    rate = proposal.params.get("learning_rate", 1.0)
    assert isinstance(rate, float)
    return 1 - abs(math.log10(rate) + 3) / 10


def drain(one: Sampler, count: int, *, value=quality, heads: int = 1) -> list[Proposal]:
    """Ask and tell until so many were proposed, or there are none."""
    found: list[Proposal] = []
    while len(found) < count:
        proposals = one.ask(len(found), most=count - len(found), heads=heads)
        if not proposals:
            break
        for number, proposal in enumerate(proposals, len(found)):
            one.tell(number, COMPLETE, value(proposal))
        found += proposals
    return found


def record(number: int, proposal: Proposal, value: float | None = 0.5, **changes) -> TrialRecord:
    given = {
        "study": "s",
        "number": number,
        "state": COMPLETE,
        "reason": "",
        "role": TrialRole.SEARCH,
        "confirms": None,
        "backbone": proposal.backbone,
        "strategy": proposal.strategy,
        "freeze_depth": None,
        "groups": None,
        "params": proposal.params,
        "value": value,
        "metrics": {},
        "costs": Costs(),
        "seed": 0,
        "attempt": 1,
        "cache": "",
        "node": "",
        "started": datetime.now(UTC),
        "finished": None,
        "artifact": None,
    }
    return TrialRecord(**{**given, **changes})


def keys(proposals: list[Proposal]) -> list[str]:
    return [proposal.key for proposal in proposals]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [1, 8])
def test_no_point_is_proposed_twice_and_all_lie_in_the_space(kind, heads):
    space = real()
    found = drain(sampler(space, kind), 120, heads=heads)
    assert len(set(keys(found))) == len(found) == 120
    for proposal in found:
        branch = space.branch(proposal.backbone, proposal.strategy)
        assert set(proposal.params) == {
            k for k in branch.hyperparameters if branch.exists(k, proposal.params)
        }
        for hyperparameter, value in proposal.params.items():
            distribution = branch.hyperparameters[hyperparameter]
            assert distribution._contains(distribution.to_internal_repr(value))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_point_of_a_branch_is_its_default(kind):
    space = real()
    found = drain(sampler(space, kind), 60)
    for branch in space.branches:
        of_branch = [
            p.params for p in found if (p.backbone, p.strategy) == (branch.backbone, branch.strategy)
        ]
        if of_branch:
            assert dict(of_branch[0]) == dict(branch.starts[0])


@pytest.mark.parametrize("kind", KINDS)
def test_heads_scout_every_backbone_and_then_each_is_fine_tuned(kind):
    turns = [(p.backbone, p.strategy) for p in drain(sampler(real(), kind), 4)]
    scouts, reference = turns[:2], turns[2:]
    assert [backbone for backbone, _ in scouts] == ["tiny/net", "tiny/other"]
    assert {strategy for _, strategy in scouts} <= {"linear_probe", "feature_copy"}
    assert sorted(reference) == [("tiny/net", "fine_tune"), ("tiny/other", "fine_tune")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_strategy_gets_its_turn_early(kind):
    found = drain(sampler(real(), kind), 12)
    assert {proposal.strategy for proposal in found} == {"linear_probe", "fine_tune", "feature_copy"}
    assert {proposal.backbone for proposal in found} == {"tiny/net", "tiny/other"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_proposes_the_same_points(kind):
    first, again = (keys(drain(sampler(real(), kind, seed=3), 40)) for _ in range(2))
    assert first == again
    if kind != "grid":
        assert keys(drain(sampler(real(), kind, seed=4), 40)) != first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [False, True])
def test_a_finite_space_is_used_up_to_its_last_point(kind, heads):
    space = small(heads=heads)
    found = drain(sampler(space, kind), 100, value=lambda p: float(p.params["k"] == 3), heads=4)
    expected = 12 if kind != "grid" else 6  # a grid takes three values of a range
    assert len(found) == len(set(keys(found)))
    assert len(found) >= expected
    assert found[0].params == {"k": 3, "side": "left"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_of_one_point(kind):
    space = SearchSpace((Branch("b", "s", {"x": CategoricalDistribution([1])}, ({"x": 1},), True),))
    one = sampler(space, kind)
    assert keys(one.ask(0, most=10, heads=10)) == [Proposal("b", "s", {"x": 1}).key]
    assert one.ask(1, most=10, heads=10) == []
    assert one.ask(1, most=10, heads=10) == []


def test_a_favourite_of_few_points_does_not_end_the_search():
    """LDA has no hyperparameters: once tried it is used up, however good it is."""
    space = spaces.build({"feature_copy": registry.strategy("feature_copy")}, [INFO], {})
    found = drain(sampler(space), 60, value=lambda p: 1.0 if p.params["learner"] == "lda" else 0.1)
    assert len(found) == 60
    assert sum(proposal.params["learner"] == "lda" for proposal in found) == 1


@pytest.mark.parametrize("minimize", [False, True])
def test_the_sampler_learns(minimize):
    hyperparameters = {"learning_rate": FloatDistribution(1e-7, 1e1, log=True)}
    space = SearchSpace((Branch("b", "s", hyperparameters, ({"learning_rate": 1.0},), False),))
    sign = -1 if minimize else 1
    found = drain(sampler(space, minimize=minimize), 40, value=lambda p: sign * quality(p))
    late = [quality(proposal) for proposal in found[-10:]]
    early = [quality(proposal) for proposal in found[:10]]
    assert sum(late) > sum(early)
    assert max(late) > 0.95


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_the_better_backbone_gets_more(kind):
    found = drain(
        sampler(real(), kind), 80, value=lambda p: 0.9 if p.backbone == "tiny/other" else 0.3, heads=4
    )
    share = sum(proposal.backbone == "tiny/other" for proposal in found) / len(found)
    assert share > (0.6 if kind == "tpe" else 0.4)


def test_heads_come_many_at_a_time_and_never_beyond_the_budget():
    space = small(heads=True)
    one = sampler(space)
    assert len(one.ask(0, most=10, heads=4)) == 4
    assert len(one.ask(4, most=2, heads=4)) == 2
    assert len(sampler(small()).ask(0, most=10, heads=4)) == 1
    mixed = sampler(real()).ask(0, most=50, heads=8)
    assert len({(p.backbone, p.strategy) for p in mixed}) == 1


def test_a_first_turn_of_heads_takes_the_same_features():
    """Those of augmented views take a pass over the data each, and fine-tuning waits for its turn."""
    (branch,) = (b for b in real().branches if (b.backbone, b.strategy) == ("tiny/net", "linear_probe"))
    one = sampler(SearchSpace((branch,)))
    first = one.ask(0, most=16, heads=16)
    assert [p.params["augmentation"] for p in first] == ["none"] * 16
    assert len({p.params["learning_rate"] for p in first}) == 16
    later = one.ask(16, most=16, heads=16)
    assert {p.params["augmentation"] for p in later} == {"none", "light"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [real, small])
def test_nothing_that_was_proposed_is_proposed_again_by_a_new_driver(kind, space):
    size = {"real": 200, "small": 8}[space.__name__]
    found = drain(sampler(space(), kind), size, value=lambda p: 0.5)
    size = len(found)
    later = sampler(space(), kind)
    later.rebuild([record(n, p) for n, p in enumerate(found[:-2])])
    for number, proposal in enumerate(found[-2:], size - 2):
        later.resume(number, proposal)
    more = []
    while len(more) < 30 and (proposals := later.ask(size + len(more), most=4, heads=4)):
        more += proposals
    assert not set(keys(more)) & set(keys(found))
    assert len(set(keys(more))) == len(more)
    if space is real:
        assert len(more) >= 30
    elif kind != "grid":
        assert len(more) == 12 - size
    for number in range(size - 2, size):
        later.tell(number, COMPLETE, 0.5)


def test_a_new_driver_knows_what_the_old_one_learned():
    hyperparameters = {"learning_rate": FloatDistribution(1e-7, 1e1, log=True)}
    space = SearchSpace((Branch("b", "s", hyperparameters, ({"learning_rate": 1.0},), False),))
    found = drain(sampler(space), 30)
    later = sampler(space, seed=9)
    later.rebuild([record(n, p, quality(p)) for n, p in enumerate(found)])
    more = []
    for number in range(30, 50):
        more += later.ask(number, most=1, heads=1)
        later.tell(number, COMPLETE, quality(more[-1]))
    assert not set(keys(more)) & set(keys(found))
    assert sum(quality(proposal) for proposal in more) / len(more) > 0.85


def outcome(number: int, proposal: Proposal) -> tuple[TrialState, float | None]:
    """How a trial would end: many well, some pruned or failed."""
    rate = proposal.params.get("learning_rate", 1e-3)
    assert isinstance(rate, float)
    value = 1 - abs(math.log10(rate) + 3) / 10
    return [(COMPLETE, value), (PRUNED, value - 0.1), (COMPLETE, value), (FAILED, None)][number % 4]


def go_on(one: Sampler, turns: list[list[Proposal]], open_: list[int], *, count: int, heads: int) -> None:
    """End what is open, then ask and tell, a turn after another, until so many were proposed."""
    while True:
        for number in sorted(open_, key=lambda number: -number % 3):  # heads of a turn end in any order
            state, value = outcome(number, [p for turn in turns for p in turn][number])
            if value is not None and number % 5 == 0:
                one.observe(number, value + 0.3)  # an epoch that was better than the one that is kept
            one.tell(number, state, value)
        first = sum(map(len, turns))
        if first >= count:
            return
        turns.append(one.ask(first, most=1000, heads=heads))
        open_ = list(range(first, first + len(turns[-1])))


@pytest.mark.parametrize(
    ("kind", "heads", "count"), [("tpe", 1, 24), ("tpe", 8, 60), ("random", 3, 20), ("grid", 1, 12)]
)
def test_a_search_that_is_interrupted_anywhere_proposes_what_it_would_have(kind, heads, count, monkeypatch):
    monkeypatch.setattr(history, "HISTORY", 5)  # histories are cut, too
    hyperparameters = {
        "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
        "augmentation": CategoricalDistribution(["none", "light"]),
    }
    starts = (
        {"learning_rate": 1e-3, "augmentation": "light"},
        {"learning_rate": 1e-4, "augmentation": "none"},
    )
    space = SearchSpace(
        tuple(Branch("b", name, hyperparameters, starts, name == "heads") for name in ("heads", "deep"))
    )
    whole: list[list[Proposal]] = []
    go_on(sampler(space, kind), whole, [], count=count, heads=heads)
    for stop in range(1, len(whole), 1 + len(whole) // 5):
        done = [proposal for turn in whole[:stop] for proposal in turn]
        open_ = [number for number in range(len(done) - len(whole[stop - 1]), len(done)) if number % 2]
        records, curves = [], {}
        for number, proposal in enumerate(done):
            state, value = (TrialState.CANCELLED, None) if number in open_ else outcome(number, proposal)
            stored = json.loads(json.dumps(dict(proposal.params)))  # as the database has them
            records.append(record(number, replace(proposal, params=stored), value, state=state))
            if value is not None and number % 5 == 0:
                curves[number] = [EpochRecord(1, value + 0.3, {}, 1.0), EpochRecord(2, value, {}, 1.0)]
        later, turns = sampler(space, kind), whole[:stop]
        later.rebuild(records[::-1], curves=curves)
        go_on(later, turns, open_, count=count, heads=heads)
        assert [keys(turn) for turn in turns] == [keys(turn) for turn in whole]


def test_records_that_do_not_fit_any_more_harm_nothing():
    narrow = SearchSpace((Branch("b", "s", {"x": FloatDistribution(0, 1)}, ({"x": 0.5},), False),))
    one = sampler(narrow)
    one.rebuild(
        [
            record(0, Proposal("b", "s", {"x": 7.0})),  # outside of the range
            record(1, Proposal("b", "s", {"y": 7.0})),  # a hyperparameter that is gone
            record(2, Proposal("b", "gone", {"x": 0.1})),  # a strategy that is gone
            record(3, Proposal("b", "s", {"x": 0.2}), None, state=FAILED),
            record(4, Proposal("b", "s", {"x": 0.3}), math.nan),
            record(5, Proposal("b", "s", {"x": 0.4}), 0.4, state=PRUNED),
        ]
    )
    assert len(drain(one, 10, value=lambda p: 0.5)) == 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("state", list(TrialState)[1:])
def test_any_end_of_a_trial_is_taken(kind, value, state):
    def proposed(*, told_more: bool) -> list[str]:
        one = sampler(real(), kind)
        found = []
        for number in range(12):
            found += one.ask(number, most=1, heads=1)
            one.tell(number, state, value if number % 2 else quality(found[-1]))
            if told_more:
                one.tell(number, state, 0.5)  # told twice: the first counts
                one.tell(999, COMPLETE, 1.0)  # never asked for
        return keys(found)

    once = proposed(told_more=False)
    assert len(set(once)) == 12
    assert proposed(told_more=True) == once


@pytest.mark.parametrize("rebuilt", [False, True])
def test_points_like_those_that_failed_are_left_alone(rebuilt):
    hyperparameters = {"learning_rate": FloatDistribution(1e-7, 1e1, log=True)}
    space = SearchSpace((Branch("b", "s", hyperparameters, ({"learning_rate": 1.0},), False),))

    def value(proposal: Proposal) -> float:
        rate = proposal.params["learning_rate"]
        assert isinstance(rate, float)
        return math.inf if rate > 1e-1 else quality(proposal)

    one = sampler(space)
    found = drain(one, 50, value=value)
    if rebuilt:
        one = sampler(space)
        one.rebuild(
            [
                record(n, p, None, state=FAILED) if value(p) == math.inf else record(n, p, value(p))
                for n, p in enumerate(found)
            ]
        )
    late = [one.ask(50 + number, most=1, heads=1)[0] for number in range(15)]
    assert sum(value(proposal) == math.inf for proposal in late) < 5


def test_a_long_history_is_gone_on_with():
    hyperparameters = {"x": FloatDistribution(0, 1)}
    space = SearchSpace((Branch("b", "s", hyperparameters, ({"x": 0.5},), True),))
    one = sampler(space)
    one.rebuild([record(n, Proposal("b", "s", {"x": n / 700}), n / 700) for n in range(700)])
    asked = one.ask(700, most=40, heads=40)
    assert len(set(keys(asked))) == 40
    known = {Proposal("b", "s", {"x": n / 700}).key for n in range(700)}
    assert not known & set(keys(asked))
    for number in range(700, 740):
        one.tell(number, COMPLETE, 0.1)
    later = drain(one, 5, value=lambda p: 0.1)
    assert len(later) == 5
