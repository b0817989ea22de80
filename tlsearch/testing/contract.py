"""What the contract tests share: they are run by pytest when inherited, and without it by `results`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from tlsearch.errors import PluginError, UnknownNameError
from tlsearch.testing import fixtures

FRESH_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check of a plugin went. ``message`` says what is wrong, or what was found."""

    check: str
    ok: bool
    message: str
    seconds: float


class Contract:
    """Base of the contract tests. A method called ``test_*`` is a check; its name says what is checked.

    Not made for subclasses outside of `tlsearch.testing`: inherit one of the contracts.
    """

    _stack: ClassVar[contextlib.ExitStack]
    _folder: ClassVar[Path]

    @classmethod
    def setup_class(cls) -> None:
        """Make a folder for what the checks write, install the tiny backbones and data, find the subject."""
        with contextlib.ExitStack() as stack:
            cls._stack = stack
            cls._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tlsearch-contract-")))
            stack.enter_context(fixtures.installed())
            stack.enter_context(_one_thread())
            cls._find()
            cls._stack = stack.pop_all()  # kept for the checks; closed at once where the subject isn't found

    @classmethod
    def _find(cls) -> None:
        """Look the subject up, and make what all of its checks need."""

    @classmethod
    def teardown_class(cls) -> None:
        """Leave nothing behind."""
        cls._stack.close()

    def note(self, text: str) -> None:
        """Say what was found, for the verdict."""
        self.__dict__.setdefault("_notes", []).append(text)

    @property
    def notes(self) -> list[str]:
        """What was said."""
        return list(self.__dict__.get("_notes", []))

    @classmethod
    def checks(cls) -> list[str]:
        """Names of the test methods, in the order in which they are written; one set to None is left out."""
        names = [name for kind in reversed(cls.__mro__) for name in vars(kind) if name.startswith("test_")]
        return [name for name in dict.fromkeys(names) if callable(getattr(cls, name))]


def results(contract: type[Contract]) -> list[CheckResult]:
    """Run a contract's checks without pytest. What the plugin prints goes to stderr."""
    done = []
    with contextlib.redirect_stdout(sys.stderr):
        contract.setup_class()
        try:
            for name in contract.checks():
                subject = contract()
                began = time.perf_counter()
                ok, message = True, ""
                try:
                    getattr(subject, name)()
                    message = "; ".join(subject.notes)
                except unittest.SkipTest as skipped:
                    message = f"not checked: {skipped}"
                except AssertionError as error:
                    ok, message = False, str(error)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - what can't be checked isn't passed
                    ok, message = False, f"{type(error).__name__}: {error}"
                check = name.removeprefix("test_").replace("_", " ")
                done.append(CheckResult(check, ok, message, time.perf_counter() - began))
        finally:
            contract.teardown_class()
    return done


def checked(contract: type[Contract], **attributes: Any) -> list[CheckResult]:
    """`results` of a contract with these attributes; a plugin that can't be loaded fails one check.

    Raises:
        UnknownNameError: nothing installed goes by that name.
    """
    subject: Any = type("Checked", (contract,), attributes)
    try:
        return results(subject)
    except UnknownNameError:
        raise
    except PluginError as error:
        return [CheckResult("loads", False, error.message, 0.0)]


def demand(condition: object, message: str) -> None:
    """An assertion that tells its message with and without pytest.

    Raises:
        AssertionError: the condition doesn't hold.
    """
    if not condition:
        raise AssertionError(message)


def skip(reason: str) -> unittest.SkipTest:
    """What a check raises that doesn't apply; pytest and `results` take it as such."""
    return unittest.SkipTest(reason)


def in_fresh_process(folder: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """What `tlsearch.testing.fresh` finds in a Python process of its own, resolving plugins by name.

    Raises:
        AssertionError: it fails there; with the last line of what it said.
    """
    request, answer = folder / "request.json", folder / "answer.json"
    answer.unlink(missing_ok=True)
    request.write_text(json.dumps(task))
    done = subprocess.run(
        [sys.executable, "-m", "tlsearch.testing.fresh", str(request), str(answer)],
        env=fixtures.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=FRESH_SECONDS,
    )
    if done.returncode != 0 or not answer.is_file():
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise AssertionError(f"a fresh process fails: {said[-1]}")
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, and sums come out the same on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
