"""The three efforts are plain keys, valid and told from one another."""

from __future__ import annotations

import pytest

from tlsearch.errors import UnknownNameError
from tlsearch.spec import parse
from tlsearch.spec.presets import DEFAULT, PRESETS, preset
from tlsearch.yaml_text import read_yaml

LEAST = {"study": "s", "data": {"source": "folder", "path": "x"}, "backbones": ["a/b"]}


@pytest.mark.parametrize("name", PRESETS)
def test_the_lines_of_a_preset_are_its_keys(name):
    written, _ = read_yaml("\n".join(preset(name).lines()), name)
    assert written == preset(name).keys
    study = parse({**LEAST, **written})
    assert preset(name).differences(study) == []
    assert all(other.differences(study) for other in PRESETS.values() if other.name != name)


def test_quick_is_two_minutes_and_good_is_what_is_left_out():
    quick = parse({**LEAST, **preset("quick").keys})
    assert quick.budget.minutes == 2
    assert quick.search.refit
    good, plain = parse({**LEAST, **preset(DEFAULT).keys}), parse(LEAST)
    assert (good.search, good.strategies, good.budget.trials) == (plain.search, None, plain.budget.trials)


def test_differences_say_what_a_study_has():
    study = parse({**LEAST, "budget": {"trials": 60, "minutes": 5}})
    assert preset("good").differences(study) == ["budget.minutes: 5.0"]
    assert "strategies: null" in preset("quick").differences(study)


def test_another_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match='Did you mean "quick"'):
        preset("quik")


def test_fewer_minutes_have_shorter_epochs_but_none_shorter_than_the_quickest():
    good = preset("good")
    seconds = [good.within(minutes).epoch_seconds for minutes in (None, 30, 10, 5, 1)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] == seconds[1] == good.epoch_seconds
    assert seconds[2] < good.epoch_seconds
    assert seconds[-1] == preset("quick").epoch_seconds
    assert preset("quick").within(60) == preset("quick")
