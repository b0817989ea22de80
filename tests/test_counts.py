"""Counted nouns, and kinds of values, read as people write them."""

from __future__ import annotations

import numpy as np
import pytest

from tlsearch.counts import kind_of, plural


@pytest.mark.parametrize(
    ("count", "words", "told"),
    [
        (1, ("trial",), "1 trial"),
        (0, ("trial",), "0 trials"),
        (1200, ("study", "studies"), "1,200 studies"),
        (1, ("item is", "items are"), "1 item is"),
    ],
)
def test_nouns_agree_with_their_number(count, words, told):
    assert plural(count, *words) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (3, "an int"),
        ([], "a list"),
        (None, "a NoneType"),
        (np.zeros(1), "an ndarray"),
        (np.uint8(1), "a uint8"),
    ],
)
def test_kinds_have_their_article(value, told):
    assert kind_of(value) == told
