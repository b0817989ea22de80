"""The contract of combinations finds what breaks it."""

from __future__ import annotations

import pytest
import torch

from tlsearch.contracts import Combination, Combined
from tlsearch.errors import UnknownNameError
from tlsearch.testing import CombinationContract, check_combination


class Best(Combination):
    """The best member's weights, a little smaller."""

    def combine(self, task):
        state = {
            name: tensor * 0.999 if tensor.is_floating_point() else tensor
            for name, tensor in task.members[0].state().items()
        }
        return Combined(state, (task.members[0].number,), {"factor": 0.999})


class Cutting(Best):
    def combine(self, task):
        made = super().combine(task)
        return Combined({n: t for n, t in made.state.items() if "bias" not in n}, made.members)


class Infinite(Best):
    def combine(self, task):
        made = super().combine(task)
        return Combined(
            {n: t / 0 if t.is_floating_point() else t for n, t in made.state.items()}, made.members
        )


class Foreign(Best):
    def combine(self, task):
        return Combined(super().combine(task).state, (99,))


class Reserved(Best):
    def combine(self, task):
        made = super().combine(task)
        return Combined(made.state, made.members, {"members": "all"})


class Scribbling(Best):
    def combine(self, task):
        for tensor in task.source.values():
            if tensor.is_floating_point():
                tensor += 1
        return super().combine(task)


class Rolling(Best):
    def combine(self, task):
        made = super().combine(task)
        noise = {
            n: t + 1e-3 * torch.rand_like(t) if t.is_floating_point() else t for n, t in made.state.items()
        }
        return Combined(noise, made.members)


class Pairing(Best):
    def combine(self, task):
        return Combined(super().combine(task).state, (task.members[0].number, task.members[1].number))


BROKEN = {
    Cutting: ("test_combines", "head.linear.bias"),
    Infinite: ("test_combines", "isn't finite"),
    Foreign: ("test_record", "members are (99,)"),
    Reserved: ("test_record", "reserved"),
    Scribbling: ("test_leaves_members_as_they_are", "writes to"),
    Rolling: ("test_same_again", "comes out otherwise"),
    Pairing: ("test_one_member", "index out of range"),
}


class TestBest(CombinationContract):
    combination = Best()


@pytest.fixture(scope="module")
def members():
    """The tasks of a laboratory that is used again: members are trained once for all that is broken."""
    contract = type("Once", (CombinationContract,), {"combination": Best()})
    contract.setup_class()
    yield contract
    contract.teardown_class()


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_what_breaks_the_contract_is_found(members, monkeypatch, kind):
    from tlsearch import registry

    check, says = BROKEN[kind]
    monkeypatch.setattr(registry, "combination", lambda name: kind())
    monkeypatch.setattr(members, "_made", {})
    with pytest.raises((AssertionError, IndexError)) as caught:
        getattr(members(), check)()
    assert says in str(caught.value)


def test_an_unknown_one_is_an_error():
    with pytest.raises(UnknownNameError, match="combination"):
        check_combination("no_such_combination")
