from __future__ import annotations

import pytest
import torch
from tlsearch_averaging import GreedySoup, WiSEFT
from tlsearch_averaging.mixing import mixed

from tlsearch.contracts import CombinationTask, Member
from tlsearch.testing import CombinationContract, tiny_cnn


class TestWiSEFT(CombinationContract):
    combination = "wise_ft"


class TestGreedySoup(CombinationContract):
    combination = "greedy_soup"


def state(weight, bias=0.0, **more):
    return {
        "trunk.weight": torch.tensor([weight, weight]),
        "trunk.counter": torch.tensor(7),
        "head.bias": torch.tensor([bias]),
        **more,
    }


def task(members, nearness, source=0.0):
    """Members of these weights, best first; a state's score is how near its weights are to the best ones."""

    def score(given):
        return (-abs(float(given["trunk.weight"].double().mean()) - nearness), 0.0)

    known = [
        Member(number, "fine_tune", {}, score(member), lambda member=member: dict(member))
        for number, member in members.items()
    ]
    source = {"trunk.weight": torch.tensor([source, source]), "trunk.counter": torch.tensor(3)}
    return CombinationTask(tiny_cnn().info, sorted(known, key=lambda m: m.score, reverse=True), source, score)


def test_a_mean_keeps_what_is_equal_and_what_is_no_number():
    one = {"a": torch.rand(1000), "n": torch.tensor(3), "own": torch.rand(2)}
    other = {"a": one["a"].clone(), "n": torch.tensor(5)}
    for share in (0.1, 1 / 3, 0.7):
        found = mixed(one, other, share)
        assert torch.equal(found["a"], one["a"]), "to the bit, so that stored layers stay of use"
        assert found["n"] == 3
        assert torch.equal(found["own"], one["own"])


@pytest.mark.parametrize(
    ("nearness", "alpha"), [(3.0, 0.3), (5.2, 0.5), (8.9, 0.9), (-4.0, 0.1), (99.0, 0.9)]
)
def test_wise_ft_takes_the_alpha_that_validation_likes_best(nearness, alpha):
    combined = WiSEFT().combine(task({4: state(10.0, bias=2.0)}, nearness))
    assert combined.params == {"alpha": alpha}
    assert combined.members == (4,)
    assert combined.state["trunk.weight"].tolist() == pytest.approx([10 * alpha] * 2)
    assert combined.state["head.bias"] == 2.0, "the head is the tuned one's"
    assert combined.state["trunk.counter"] == 7


def test_of_equal_alphas_the_one_nearest_to_what_was_trained():
    given = task({0: state(10.0)}, 5.0)
    flat = CombinationTask(given.backbone, given.members, given.source, lambda state: (1.0, 0.0))
    assert WiSEFT().combine(flat).params == {"alpha": 0.9}


def test_a_soup_is_the_plain_mean_of_those_that_help():
    # By nearness to 10: first 9, to which 11.1 is added; what 12, 8 and 30 would make of it is worse.
    members = {0: state(9.0), 1: state(12.0), 2: state(11.1), 3: state(30.0), 4: state(8.0)}
    combined = GreedySoup().combine(task(members, 10.0))
    assert combined.members == (0, 2)
    assert combined.state["trunk.weight"].tolist() == pytest.approx([10.05] * 2)


def test_every_member_of_a_soup_counts_the_same():
    given, counter = task({0: state(8.0), 1: state(12.0), 2: state(5.0), 3: state(15.0)}, 8.0), iter(range(9))
    better = CombinationTask(given.backbone, given.members, given.source, lambda state: (next(counter), 0.0))
    combined = GreedySoup().combine(better)
    assert sorted(combined.members) == [0, 1, 2, 3]
    assert combined.state["trunk.weight"].tolist() == pytest.approx([10.0] * 2)
    assert combined.state["trunk.counter"] == 7


def test_no_soup_where_nothing_helps():
    assert GreedySoup().combine(task({0: state(10.0), 1: state(11.0), 2: state(20.0)}, 10.0)) is None
    assert GreedySoup().combine(task({0: state(10.0)}, 10.0)) is None


def test_a_soup_asks_for_one_measurement_a_member():
    given, asked = task({n: state(10.0 + n) for n in range(5)}, 10.0), []

    def score(measured):
        asked.append(measured)
        return given.score(measured)

    GreedySoup().combine(CombinationTask(given.backbone, given.members, given.source, score))
    assert len(asked) == 5
