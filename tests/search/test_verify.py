"""The question to the process that verifies a model reaches it whole, however late it reads."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tlsearch.errors import VerificationError
from tlsearch.records import StudyItems
from tlsearch.search.verify import verify

SECONDS = 60
"""After which a process that waits for the rest of its question is killed."""


def test_a_long_question_reaches_a_process_that_is_slow_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\nsleep 1\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    names = tuple(f"item {number}" for number in range(5000))
    items = StudyItems(names=names, hashes=("0" * 64,) * 5000, labels=names, splits=("val",) * 5000)
    until = time.monotonic() + SECONDS
    spec = {"study": "s", "data": {"source": "folder", "path": "none"}, "backbones": ["tiny/net"]}
    with pytest.raises(VerificationError, match="is not a model bundle"):
        verify(
            tmp_path / "no bundle",
            spec=spec,
            items=items,
            metric="accuracy",
            values=[1.0],
            test=False,
            stopping=lambda: "late" if time.monotonic() > until else "",
        )
