"""A weighted mean of two models."""

from __future__ import annotations

from tlsearch.contracts import State


def mixed(one: State, other: State, share: float) -> State:
    """``one + share * (other - one)`` for every tensor of numbers that both have; the rest as in ``one``.

    Statistics of BatchNorm are averaged like weights; its counters, and positions, are ``one``'s. Tensors
    that are equal stay what they are, to the bit.
    """
    return {
        name: tensor.lerp(other[name].to(tensor.device), share)
        if name in other and tensor.is_floating_point()
        else tensor
        for name, tensor in one.items()
    }
