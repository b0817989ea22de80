"""Ray itself: started on this machine or joined elsewhere, asked what it has, and ended again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import psutil
import ray
from threadpoolctl import threadpool_limits

from tlsearch.errors import WorkError
from tlsearch.search import ray_words

_ENVIRONMENT = {
    # Result files, progress tables and state snapshots of Tune's own: nobody reads them here.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # A trial that failed has no value to report.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C is the driver's business.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_daemons: list[psutil.Process] = []
"""Ray's own processes on this machine, where this process started them."""
_early: list[Future[None]] = []
"""The start that is under way in the background, if one is."""
_one_thread: list[threadpool_limits] = []
"""BLAS is held to one thread while Ray starts in the background; this lifts it."""
_over = threading.Event()
"""Set when Ray isn't needed any more."""
_CORE = ("raylet", "gcs_server")
"""Those of Ray's own processes without which nothing goes on."""


def start_early() -> None:
    """Begin to start Ray on this machine, in the background; `start` waits for it.

    Until then BLAS has one thread. Ray forks processes, and OpenBLAS ends its threads before a fork: a
    product of matrices that another thread has begun with them would wait for ever.
    """
    if _early or started():
        return
    import scipy.linalg  # noqa: F401 - it has a BLAS of its own, and the limit holds for those that are loaded

    _one_thread.append(threadpool_limits(1, user_api="blas"))
    outcome: Future[None] = Future()
    _early.append(outcome)
    _over.clear()

    def begin() -> None:
        try:
            _start(None)
            outcome.set_result(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for it
            outcome.set_exception(error)
        else:
            _over.wait()  # Ray's processes end with the thread that started them (PR_SET_PDEATHSIG)

    threading.Thread(target=begin, name="tlsearch-ray", daemon=True).start()


def start(*, address: str | None) -> None:
    """Start Ray on this machine, or join the cluster at ``address``; a Ray that runs already is used.

    Raises:
        WorkError: it doesn't start, or there is no cluster there.
    """
    _wait_for_early()
    if not started():
        _start(address)
    if threading.current_thread() is threading.main_thread():
        # Beneath Python's, Ray has put a handler that aborts the process; started in another thread it stays.
        handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)


def _wait_for_early() -> None:
    """Wait for the start that is under way in the background, if one is; raise what it raised."""
    try:
        while _early:
            _early.pop().result()
    finally:
        while _one_thread:
            _one_thread.pop().restore_original_limits()


def _start(address: str | None) -> None:
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    ray_words.filter_out()
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        # "local" never joins somebody's cluster by accident.
        options.update(address="local", include_dashboard=False)
        # Ray would start a process for each CPU. None is ready when the first trial comes, which starts
        # its own, and they are in each other's way.
        options["_system_config"] = {
            "prestart_worker_first_driver": False,
            "preload_python_modules": ["tlsearch.gc_tuning"],
        }
    else:
        options.update(address=address)
    before = psutil.Process().children()
    try:
        with _own_signals():
            ray.init(**options)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise WorkError(
            f"Ray doesn't start: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}.",
            hint="Ray writes to ~/.ray and to /tmp (or RAY_TMPDIR): set HOME, or that, to a folder that you "
            "may write to.",
        ) from error
    except Exception as error:  # where a node is too slow to start, Ray raises nothing more special
        hint = "Is the machine busy? Try again."
        if "AF_UNIX" in str(error):  # sockets lie below the folder for temporary files
            hint = "Set RAY_TMPDIR to a folder with a shorter name, such as /tmp."
        raise WorkError(f"Ray doesn't start: {error}", hint=hint) from error
    finally:
        _daemons[:] = [
            child for child in psutil.Process().children() if child not in before and _belongs_to_ray(child)
        ]
        _names.clear()
        for daemon in _daemons:
            with contextlib.suppress(psutil.Error):
                _names[daemon.pid] = daemon.name()


def _belongs_to_ray(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(f"{os.sep}ray{os.sep}" in part for part in process.cmdline())
    return False


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep SIGTERM and SIGHUP the driver's own business while Ray starts.

    Ray's processes inherit that they are blocked, as Ray itself sees to for SIGINT: a signal to all of a
    group (systemd, Slurm, a closed terminal) would otherwise end them under the driver, which then waits a
    minute for their return. Ray also puts a handler of its own into the driver, which exits at once.
    """
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere Ray can't set one either
            signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def started() -> bool:
    """Whether Ray runs in this process already."""
    return bool(ray.is_initialized()) and not _early


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Leave the block as soon as one of Ray's own processes of this machine dies.

    Ray itself would wait for it, print a page of its log, and end this process without a word of what to do.

    Raises:
        WorkError: one died; it says which.
    """
    over, dead = threading.Event(), list[str]()
    here = threading.get_ident()

    def watch() -> None:
        while not dead:
            if over.wait(_WATCH_SECONDS):
                return
            dead.extend(_name(daemon) for daemon in list(_daemons) if _is_core(daemon) and _gone(daemon))
        kill_workers()
        _raise_in(here, _Lost)
        if not over.wait(_LEAVE_SECONDS):  # it hangs in Ray's own code, which would end this process soon
            error = _lost(dead[0])
            print(f"Error: {error.message}\n{error.hint}", file=sys.stderr, flush=True)
            os._exit(error.exit_code)

    watcher = threading.Thread(target=watch, name="tlsearch-watch", daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        if dead and isinstance(error, Exception | _Lost):
            raise _lost(dead[0]) from None
        raise
    finally:
        over.set()


_WATCH_SECONDS = 0.5
_LEAVE_SECONDS = 8.0
"""How long it may take to leave what Ray is asked; ten seconds after a raylet Ray ends the process."""


class _Lost(BaseException):
    """One of Ray's own processes died."""


def _lost(name: str) -> WorkError:
    return WorkError(
        f"Ray's own process {name} died, and the search with it: was it killed, or is the memory full?",
        hint="Recorded results are kept. Run the same command again to continue.",
    )


def _raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


_names: dict[int, str] = {}
"""Of Ray's own processes by PID: one that is dead can't be asked any more."""


def _name(process: psutil.Process) -> str:
    return _names.get(process.pid, "")


def _is_core(process: psutil.Process) -> bool:
    return _name(process) in _CORE


def _gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def session() -> str:
    """The name that the cluster was given when it started, the same for every driver on it."""
    return str(ray.get_runtime_context().get_session_name())


def slots(*, cpus_per_trial: int, gpus_per_trial: float) -> int:
    """How many trials the cluster can run at once.

    Raises:
        WorkError: not even one.
    """
    fit = sum(_fitting(have, cpus=cpus_per_trial, gpus=gpus_per_trial) for have in _nodes())
    if fit < 1:
        have = ray.cluster_resources()
        raise WorkError(
            f"A trial asks for {cpus_per_trial} CPUs and {gpus_per_trial:g} GPUs; Ray has "
            f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs.",
            hint="Lower resources.cpus_per_trial or resources.gpus_per_trial in the study file.",
        )
    return fit


def slots_without_gpu(*, cpus_per_trial: int) -> int:
    """How many trials that use no GPU fit on the nodes that have none; 0 where no node has one."""
    nodes = _nodes()
    if not any(have.get("GPU", 0) for have in nodes):
        return 0
    return sum(_fitting(have, cpus=cpus_per_trial, gpus=0) for have in nodes if not have.get("GPU", 0))


def _nodes() -> list[dict[str, float]]:
    """What each living node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fitting(have: Mapping[str, float], *, cpus: int, gpus: float) -> int:
    """How many trials fit on a node at once; none stretches over two nodes."""
    by_cpu = int(have.get("CPU", 0) // cpus)
    return min(by_cpu, int(have.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpu


def has_gpus() -> bool:
    """Whether the cluster has any GPU."""
    return bool(ray.cluster_resources().get("GPU", 0) > 0)


def stop() -> None:
    """End this process's Ray, and on this machine whatever belongs to it."""
    with contextlib.suppress(WorkError):  # nobody waits for it any more
        _wait_for_early()
    if not started():
        return
    family = [*_daemons, *(process for daemon in _daemons for process in _descendants(daemon))]
    # Ray asks each by SIGTERM, which they don't hear (see `_own_signals`), and waits a second for it.
    impatience = threading.Timer(0.5, _kill, [_daemons])
    impatience.start()
    try:
        ray.shutdown()
    finally:
        impatience.join()
        _kill(family)
        _daemons.clear()
        _over.set()


def kill_workers() -> None:
    """End what trains in the cluster that this process started, whether it listens or not."""
    _kill([worker for daemon in list(_daemons) for worker in _descendants(daemon) if _trains(worker)])


def _trains(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        title = " ".join(process.cmdline())  # Ray writes into it what a worker is at
        return title.startswith("ray::") and "Train" in title
    return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def node_name() -> str:
    """The name that Ray's node was started with, else the host's."""
    identity = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == identity and node.get("NodeName") not in (None, "", node["NodeManagerAddress"]):
            return str(node["NodeName"])
    return socket.gethostname()
