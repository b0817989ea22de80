"""What goes wrong in a plugin's data set source is told as the plugin's; in ours, as ours."""

from __future__ import annotations

import errno
import re

import pytest

from tlsearch import spec
from tlsearch.contracts import DatasetOptions, DatasetSource
from tlsearch.errors import DataError
from tlsearch.testing import fixtures, installed
from tlsearch.training import sources


class Options(DatasetOptions):
    fault: str = ""


class Faulty(DatasetSource[Options]):
    options = Options

    def load(self, options):
        if options.fault == "data":
            raise DataError("there is nothing")
        if options.fault == "file":
            raise OSError(errno.ENOENT, "No such file", "nope.json")
        return int("no number")


def described(source: str, **options: object) -> spec.DataSpec:
    study = {"study": "x", "data": {"source": source, **options}, "backbones": [fixtures.CNN]}
    return spec.parse(study).data


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", r"ValueError: invalid literal for int\(\) with base 10: 'no number'"),
        ("file", r"FileNotFoundError: \[Errno 2\] No such file: 'nope.json'"),
    ],
)
def test_an_error_in_the_source_of_a_plugin_names_it_and_the_line(fault, said):
    who = "The data set source 'faulty' of tlsearch-under-test 1.0 failed: "
    with installed(datasets={"faulty": Faulty}), pytest.raises(DataError) as caught:
        sources.listing(described("faulty", fault=fault))
    where = r" at test_plugin_faults.py line \d+ in load\."
    assert re.fullmatch(re.escape(who) + said + where, caught.value.message)
    assert caught.value.exit_code == 2
    assert isinstance(caught.value.__cause__, ValueError | OSError)


def test_what_a_source_says_on_purpose_stays_as_it_is():
    with installed(datasets={"faulty": Faulty}), pytest.raises(DataError, match=r"^there is nothing$"):
        sources.listing(described("faulty", fault="data"))


def test_an_error_in_a_source_of_our_own_stays_what_it_is(monkeypatch):
    from tlsearch.datasets.digits import Digits

    def load(self, options):
        raise OSError("the disk is on fire")

    monkeypatch.setattr(Digits, "load", load)
    with pytest.raises(OSError, match="the disk is on fire"):
        sources.listing(described("digits"))
