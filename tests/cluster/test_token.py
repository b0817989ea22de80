"""The token: made for its owner's eyes alone, and asked for before anything but this machine is talked to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tlsearch.cluster import token
from tlsearch.errors import InputError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (token.MODE, token.VALUE, token.PATH):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever a test makes of it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_new_token_is_long_and_only_its_owner_reads_it(home: Path) -> None:
    before = os.umask(0)
    try:
        path, new = token.create()
    finally:
        os.umask(before)
    assert (path, new) == (home / ".ray" / "auth_token", True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(token.read()) == 64
    assert token.create() == (path, False)
    assert token.read() == path.read_text()


def test_tokens_that_are_none_are_told(home: Path) -> None:
    with pytest.raises(InputError, match="has no token"):
        token.read()
    path, _ = token.create()
    path.chmod(0o644)
    with pytest.raises(InputError, match=r"can be read by others \(mode 0644\)"):
        token.create()
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        token.create()


def test_a_place_that_cannot_hold_it_is_named(home: Path) -> None:
    (home / ".ray").write_text("a file")
    with pytest.raises(InputError, match="auth_token"):
        token.create()


@pytest.mark.parametrize("host", ["10.1.2.3", "head.example.org", "0.0.0.0", "::2"])
def test_other_machines_need_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"No token for {host}") as caught:
        token.use(host)
    assert token.INSECURE in str(caught.value.hint)
    assert "tlsearch cluster token" in str(caught.value.hint)
    token.use(host, insecure=True)
    assert token.MODE not in os.environ
    monkeypatch.setenv(token.VALUE, "abc")
    token.use(host)
    assert os.environ[token.MODE] == "token"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "auto", ""])
def test_this_machine_does_not(host: str) -> None:
    token.use(host)
    assert token.MODE not in os.environ


def test_what_the_user_says_about_authentication_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(token.MODE, "disabled")
    token.create()
    token.use("10.1.2.3")
    assert os.environ[token.MODE] == "disabled"
