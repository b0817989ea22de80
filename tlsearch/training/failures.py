"""What went wrong in a trial, as a result that is recorded."""

from __future__ import annotations

from tlsearch import plugin_faults, registry
from tlsearch.errors import HookError, TlsearchError
from tlsearch.files import disk_is_full
from tlsearch.records import EpochResult, Outcome, Point, TrialState

REASON_LENGTH = 2_000
"""Characters kept of what went wrong in a trial."""
FAILURES = (Exception, SystemExit)
"""What ends a trial as FAILED; a plugin that calls ``sys.exit`` ends its own trial, not the worker."""


def failed(point: Point, error: BaseException) -> EpochResult:
    """The result of a trial that can't go on; its reason names the plugin, since its code was running.

    Raises:
        SystemExit: the worker was told to stop, which is no failure of the trial.
    """
    if isinstance(error, SystemExit) and _stops_worker(error):
        raise error
    message = f"{_shortage(error)}{type(error).__name__}: {error}"
    origin = f" ({registry.described(registry.STRATEGIES, point.strategy)})"
    if isinstance(error, HookError):
        message = error.message + origin
    elif isinstance(error, TlsearchError):
        message = error.message
    else:
        origin = plugin_faults.origin(registry.STRATEGIES, point.strategy, error) + origin
        message = message[: REASON_LENGTH - len(origin)] + origin
    outcome = Outcome(state=TrialState.FAILED, reason=message[:REASON_LENGTH])
    return EpochResult(
        number=point.number, attempt=point.attempt, epoch=0, epochs=0, value=None, outcome=outcome
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: by a GPU, by torch on a CPU, or by Python."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _shortage(error: BaseException) -> str:
    if disk_is_full(error):
        return "the disk is full: "
    return "out of memory: " if out_of_memory(error) else ""


def _stops_worker(error: SystemExit) -> bool:
    """Whether Ray raised it, on a signal, wherever the worker was; else a plugin called ``sys.exit``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == "ray"
