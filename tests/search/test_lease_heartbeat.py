"""What signals do to a driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tlsearch.search.lease_heartbeat import Interruption, signals, surely_dead, this_process


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


def test_only_a_process_of_this_boot_and_namespace_can_be_known_to_be_dead() -> None:
    code = (
        "from tlsearch.search.lease_heartbeat import this_process; print(this_process(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        owner = child.stdout.readline().strip()
        assert f":{child.pid}:" in owner
        assert not surely_dead(owner)
        child.kill()
        child.wait()
    assert surely_dead(owner)
    before, _, mark = owner.rpartition(":")
    boot, namespace, ticks = mark.split("/")
    for elsewhere in (
        f"{before}:{boot}/1/{ticks}",  # a container of the same host name
        f"{before}:0-0-0/{namespace}/{ticks}",  # a machine of the same name, or before a restart
        f"{before}:unknown/{ticks}",
        f"{before}:1764187800.25",  # as an older version has it, by a clock that may have been set since
        f"{before}:{boot}/{namespace}/0",
        f"{before}:{boot}/{namespace}/x",
        "ann@other" + owner[owner.index(":") :],
        "nobody",
    ):
        assert not surely_dead(elsewhere), elsewhere
    own, _, ticks = this_process().rpartition("/")
    assert not surely_dead(this_process())
    assert surely_dead(f"{own}/{int(ticks) - 100}")  # another process had this number before
    assert f":{os.getpid()}:" in own
