"""What of a URL is shown: never a password, however badly it is written."""

from __future__ import annotations

import itertools
import traceback

import pytest

from tlsearch import artifacts, spec
from tlsearch.database.address import parse
from tlsearch.errors import DatabaseError, InputError, SpecError
from tlsearch.urls import NOT_SHOWN, may_hold_password, public


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann@host/studies", "postgresql://ann@host/studies"),
        ("postgresql://ann:word@host:5432/studies", "postgresql://ann:***@host:5432/studies"),
        ("postgresql://ann:a%40b%2Fc@host/studies", "postgresql://ann:***@host/studies"),
        ("postgresql://host/studies?password=word", "postgresql://host/studies?..."),
        ("sqlite:////srv/tlsearch.db", "sqlite:////srv/tlsearch.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("http://[::1]:8265", "http://[::1]:8265"),
        ("runs/tlsearch.db", "runs/tlsearch.db"),
        ("ann:word@host", NOT_SHOWN),
        ("postgresql://ann:wo@rd/x@host/studies", NOT_SHOWN),
        ("postgresql://ann:word", NOT_SHOWN),
        ("http://ann:99999/x", NOT_SHOWN),
    ],
)
def test_public(url, shown):
    assert public(url) == shown


SPECIAL = ["@", "/", "#", "?", ":", "%", " ", "&", "=", "+", "\\", "[", "]", "\n", "é", "://", ";", ","]


def test_no_piece_of_a_password_is_shown_whatever_is_in_it():
    """Three pieces with any two special characters between them; what is accepted is all password."""
    for one, two in itertools.product(SPECIAL, repeat=2):
        password = f"alpha1{one}beta2{two}gamma3"
        for url in (
            f"postgresql://ann:{password}@host/studies",
            f"postgresql://ann:{password}@host:5432/studies?sslmode=require",
            *([] if "@" in password else [f"postgresql://ann:{password}"]),  # else what follows is a host
            f"postgresql://:{password}@host/studies",
            f"mysql://ann:{password}@host/studies",
            f"sqlite://ann:{password}@host/studies",
            f"ann:{password}@host/studies",
        ):
            try:
                address = parse(url)
            except DatabaseError as error:
                told = "".join(traceback.format_exception(error, limit=0)) + str(error.hint)
            else:
                told = f"{address} {address!r}"
                assert address.has_password
            for piece in ("alpha1", "beta2", "gamma3"):
                assert piece not in told, (url, told)
                assert piece not in public(url), url


@pytest.mark.parametrize(
    "place", ["s3://KEY:se/cret@bucket/x", "sftp://ann:word@host/x", "s3://KEY:word@bucket"]
)
def test_a_place_for_artifacts_holds_no_password(place):
    with pytest.raises(InputError, match="may hold a password") as caught:
        artifacts.normal(place)
    assert "word" not in str(caught.value).replace("password", "")
    assert "cret" not in str(caught.value).replace("SECRET", "")


def test_a_study_file_holds_no_password():
    study = {"study": "s", "data": {"source": "digits"}, "backbones": ["a/b"]}
    for changes in (
        {"loggers": {"mlflow": "http://ann:w0rd@host:5000"}},
        {"loggers": {"mlflow": "http://ann:w0/rd@host:5000"}},
        {"data": {"source": "table", "path": "s3://ann:w0rd@bucket/x.csv"}},
    ):
        with pytest.raises(SpecError, match="may hold a password") as caught:
            spec.parse({**study, **changes})
        assert "w0" not in str(caught.value)
    assert spec.parse({**study, "loggers": {"mlflow": "http://host:5000"}}).loggers.mlflow
    assert not may_hold_password("s3://bucket/a@b.csv")
