"""Holding a study while its driver lives: the owner's name, the heartbeat, and what may interrupt it."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tlsearch.database.store import Lease, Store
from tlsearch.errors import DatabaseError, StudyConflictError
from tlsearch.records import StudyRequest

LEASE_SECONDS = 30.0
RENEW_SECONDS = 2.0
"""Also what a killed driver may have spent of its budget at most without anybody knowing."""

ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""Signals by which a search is asked to stop: Ctrl-C, a service manager, a terminal that was closed."""

_DONE = {StudyRequest.PAUSE: "paused", StudyRequest.CANCEL: "cancelled"}


@dataclass
class Interruption:
    """Why the search should stop, once somebody says so."""

    reason: str = ""
    signal: int = 0
    request: StudyRequest | None = None


def who() -> str:
    """The user, as studies name their owner: TLSEARCH_USER, or who runs this process.

    Jobs on a cluster run as somebody else than the person who submitted them.
    """
    given = os.environ.get("TLSEARCH_USER")
    if given:
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user needn't have a name
        return f"user {os.getuid()}"


def who_and_where() -> str:
    """The user and the machine."""
    return f"{who()}@{socket.gethostname()}"


def this_process() -> str:
    """This driver's name as the owner of a lease; tells whether it lives, on the machine it is on.

    USER@HOST:PID:BOOT/NAMESPACE/TICKS. Containers may share host names and PIDs, and a clock may be set: the
    boot, the PID namespace, and the ticks from the boot to its start tell which process it is.
    """
    pid = os.getpid()
    return f"{who_and_where()}:{pid}:{_here() or 'unknown'}/{_ticks(pid)}"


def surely_dead(owner: str) -> bool:
    """Whether a lease's owner was a process of this boot and PID namespace that doesn't live any more.

    False where that can't be known: the lease then holds until it runs out.
    """
    try:
        where, pid, mark = owner.rsplit(":", 2)
        place, _, ticks = mark.rpartition("/")
        if where.partition("@")[2] != socket.gethostname() or not place or place != _here() or not int(ticks):
            return False
        now = _ticks(int(pid))
    except ValueError:
        return False
    if now:
        return now != int(ticks)
    try:
        os.kill(int(pid), 0)  # /proc may hide the processes of others
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return True  # a zombie


def _here() -> str:
    """This boot and this PID namespace; empty where the system doesn't tell them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _ticks(pid: int) -> int:
    """Clock ticks from the boot to a process's start; 0 where it isn't there or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()  # a name may hold spaces and brackets
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


@contextlib.contextmanager
def heartbeat(store: Store, lease: Lease, interruption: Interruption) -> Iterator[None]:
    """Renew the lease and count search time until the block ends."""
    over = threading.Event()

    def beat() -> None:
        last = time.monotonic()
        while True:
            ended = over.wait(RENEW_SECONDS)
            now = time.monotonic()
            try:
                asked = store.renew(lease, seconds=LEASE_SECONDS, elapsed=now - last)
                last = now
                if asked is not None and not interruption.reason:
                    interruption.request, by = asked
                    interruption.reason = f"{_DONE[interruption.request]} by {by}"
            except StudyConflictError as error:
                interruption.reason = f"another driver took the study over: {error.message}"
                return
            except DatabaseError as error:
                interruption.reason = f"the database can't be reached: {error.message}"
                return
            if ended:
                return

    thread = threading.Thread(target=beat, name="tlsearch-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def signals(interruption: Interruption) -> Iterator[None]:
    """Turn the first signal of `ENDING` into a clean stop; the second ends at once.

    A SIGHUP that is ignored stays so: `nohup` wants a search to outlast its terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    again: list[threading.Timer] = []

    def stop(number: int, frame: object) -> None:
        if interruption.signal:
            raise KeyboardInterrupt
        interruption.signal = number
        interruption.reason = f"interrupted by {signal.Signals(number).name}"
        if number == signal.SIGHUP:
            _drop_terminal()

    def dropped(what: sys.UnraisableHookArgs) -> None:
        # Where it met an object's finalizer, Python goes on as if nothing had been: interrupt once more.
        if interruption.signal and what.exc_type is KeyboardInterrupt:
            again.append(threading.Timer(0.02, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)))
            again[-1].start()
        else:
            tell(what)

    tell, sys.unraisablehook = sys.unraisablehook, dropped
    outlasts = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = ENDING - {signal.SIGHUP} if outlasts else ENDING
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for timer in again:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = tell


def _drop_terminal() -> None:
    """What is still said goes nowhere: writing to a terminal that was closed fails. Files go on."""
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
