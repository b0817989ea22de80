"""Which backbones and strategies get trials, on simulated scores."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from tlsearch import registry
from tlsearch.records import TrialState
from tlsearch.search import space as spaces
from tlsearch.search.sampler import Proposal, Sampler

INFO = registry.backbone("tiny/net", weights="pretrained", image_size=None).info
OTHERS = ("l2_sp", "lora", "bitfit", "co_tuning", "surgical")


class Simulated:
    """Scores of backbones whose heads mislead: the last one's features are poor, and it fine-tunes best.

    A learning rate off the backbone's own best costs accuracy; every score has the noise of a small
    validation split.
    """

    def __init__(self, backbones: int, seed: int) -> None:
        self.names = [f"tiny/n{index}" for index in range(backbones)]
        self.chance = random.Random(seed)
        self.best_rate = {name: -2.5 - 1.5 * index / backbones for index, name in enumerate(self.names)}
        strategies = {name: registry.strategy(name) for name in ("linear_probe", "fine_tune", *OTHERS)}
        infos = [replace(INFO, name=name) for name in self.names]
        self.space = spaces.build(strategies, infos, {})
        self.right = self.names[-1]

    def score(self, proposal: Proposal) -> float:
        noise = self.chance.gauss(0, 0.01)
        if proposal.strategy == "linear_probe":
            return (0.70 if proposal.backbone == self.right else 0.72) + noise
        rate = proposal.params["learning_rate"]
        assert isinstance(rate, float)
        off = abs(math.log10(rate) - self.best_rate[proposal.backbone])
        return (0.86 if proposal.backbone == self.right else 0.82) - 0.03 * min(off, 3) + noise

    def search(self, trials: int, *, heads: int = 4, seed: int = 0) -> list[tuple[Proposal, float]]:
        sampler = Sampler(self.space, kind="tpe", minimize=False, seed=seed, trials=trials)
        done: list[tuple[Proposal, float]] = []
        while len(done) < trials:
            first = len(done)
            for number, proposal in enumerate(sampler.ask(first, most=trials - first, heads=heads), first):
                done.append((proposal, self.score(proposal)))
                sampler.tell(number, TrialState.COMPLETE, done[-1][1])
        return done


@pytest.mark.parametrize("backbones", [3, 5])
def test_every_promising_backbone_is_fine_tuned_and_the_right_one_wins(backbones):
    wins = 0
    for seed in range(10):
        simulated = Simulated(backbones, seed)
        done = simulated.search(60, seed=seed)
        tuned = {p.backbone for p, _ in done if p.strategy == "fine_tune"}
        assert len(tuned) == backbones
        wins += max(done, key=lambda pair: pair[1])[0].backbone == simulated.right
    assert wins >= 9


def test_most_of_the_work_refines_what_leads_and_some_of_it_tries_new_strategies():
    done = Simulated(1, 0).search(60)
    counts = Counter(proposal.strategy for proposal, _ in done)
    assert set(counts) == {"linear_probe", "fine_tune", *OTHERS}
    first = {proposal.strategy: number for number, (proposal, _) in reversed(list(enumerate(done)))}
    assert sum(p.strategy == "fine_tune" for p, _ in done[: first["lora"]]) >= 4
    assert max(counts.values()) >= 15


def test_a_value_that_a_trial_lost_again_does_not_count():
    simulated = Simulated(2, 0)
    sampler = Sampler(simulated.space, kind="tpe", minimize=False, seed=0, trials=40)
    given: Counter[str] = Counter()
    for number in range(40):
        (proposal,) = sampler.ask(number, most=1, heads=1)
        if proposal.backbone == "tiny/n0":
            sampler.observe(number, 0.99)  # one lucky epoch
        given[proposal.backbone] += 1
        sampler.tell(number, TrialState.COMPLETE, 0.5 if proposal.backbone == "tiny/n0" else 0.8)
    assert given["tiny/n1"] > 1.5 * given["tiny/n0"]


def test_deeply_frozen_trials_are_cheap_and_whole_ones_dear():
    from tlsearch.search.allocation import charge

    whole, half, last = (charge({"freeze_depth": depth}) for depth in (0.0, 0.5, 1.0))
    assert whole == 1
    assert half == 0.5
    assert 0 < last < half


def test_unasked_strategies_are_tried_in_their_order_of_precedence():
    from tlsearch.search.plugin_choice import resolve_strategies
    from tlsearch.spec import parse

    spec = parse({"study": "s", "data": {"source": "digits"}, "backbones": ["tiny/net"]})
    names = list(resolve_strategies(spec)[0])
    precedence = [registry.strategy(name).precedence for name in names]
    assert precedence == sorted(precedence)
    assert names[0] == "linear_probe"
    assert next(n for n in names if n not in ("linear_probe", "feature_copy")) == "fine_tune"


def test_two_trials_fine_tune_before_other_heads_where_there_are_trials_to_spare():
    strategies = {
        name: registry.strategy(name) for name in ("linear_probe", "fine_tune", "feature_copy", *OTHERS)
    }
    space = spaces.build(strategies, [INFO], {})

    def first(trials: int) -> list[str]:
        sampler = Sampler(space, kind="tpe", minimize=False, seed=0, trials=trials, exploration=1.0)
        proposed = []
        for number in range(trials):
            (proposal,) = sampler.ask(number, most=1, heads=1)
            sampler.tell(number, TrialState.COMPLETE, 0.5)
            proposed.append(proposal.strategy)
        return proposed

    assert first(40)[:4] == ["linear_probe", "fine_tune", "fine_tune", "feature_copy"]
    assert set(first(len(strategies))) == set(strategies), "each is tried where there are only as many trials"


def test_a_decoder_on_a_frozen_backbone_scouts_where_a_task_has_no_heads():
    """It tells what a backbone's maps are worth, as a linear probe tells of features."""
    strategies = {name: registry.strategy(name) for name in ("decoder_probe", "fine_tune")}
    infos = [replace(INFO, name=f"tiny/n{index}") for index in range(2)]
    sampler = Sampler(spaces.build(strategies, infos, {}), kind="tpe", minimize=False, seed=0, trials=20)
    proposed = []
    for number in range(4):
        (proposal,) = sampler.ask(number, most=1, heads=1)
        sampler.tell(number, TrialState.COMPLETE, 0.6 if proposal.backbone == "tiny/n1" else 0.5)
        proposed.append((proposal.strategy, proposal.backbone))
    assert proposed[:2] == [("decoder_probe", "tiny/n0"), ("decoder_probe", "tiny/n1")]
    assert proposed[2:] == [("fine_tune", "tiny/n1"), ("fine_tune", "tiny/n0")]
