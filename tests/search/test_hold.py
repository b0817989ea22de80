"""What signals do to a driver."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from tlsearch.search.hold import Interruption, signals


def test_the_first_signal_asks_and_the_second_ends_at_once() -> None:
    interruption = Interruption()

    def interrupted() -> None:
        with signals(interruption):
            signal.raise_signal(signal.SIGTERM)
            assert interruption.signal == signal.SIGTERM
            assert interruption.reason == "interrupted by SIGTERM"
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_second_signal_is_not_lost_where_an_object_is_finalized(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def interrupted() -> None:
        with signals(Interruption()):
            signal.raise_signal(signal.SIGINT)
            Finalized()  # Python drops what its finalizer raises
            time.sleep(30)
            pytest.fail("it went on")

    hook, began = sys.unraisablehook, time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 10
    assert "Traceback" not in capsys.readouterr().err
    assert sys.unraisablehook is hook
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
