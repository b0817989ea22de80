"""A study from its specification to a verified model: check, search, confirm, finish; or go on with it."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tlsearch.database.store import Lease, Store, exists
from tlsearch.errors import DatabaseError, SearchError, StudyConflictError, WorkError
from tlsearch.records import ModelRecord, StudyRecord, StudyState, TrialRecord, TrialRole, TrialState
from tlsearch.search import finish, ray_tune
from tlsearch.search.budget import Ledger
from tlsearch.search.driver import Driver, Fixed, PointSource, Searching, is_heads
from tlsearch.search.progress import Observer, Snapshot, silent
from tlsearch.search.sampler import Sampler
from tlsearch.search.setup import Prepared, cache_folder, cache_limit, prepare
from tlsearch.spec import StudySpec
from tlsearch.training.trial import Assignment

LEASE_SECONDS = 30.0
RENEW_SECONDS = 5.0

FREE_TO_CHANGE = ("budget.trials", "budget.minutes", "resources", "search", "data.path", "data.root")
"""Parts of a study that may differ when it is run again; anything else would make trials incomparable.

Where the data lies is free, since what it holds is compared by its fingerprint.
"""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a run came to. ``interrupted`` is why it ended early, or empty; ``signal`` the one that did it."""

    study: StudyRecord
    model: ModelRecord | None
    best: TrialRecord | None
    interrupted: str
    signal: int = 0


@dataclass
class Interruption:
    """Why the search should stop, once somebody says so."""

    reason: str = ""
    signal: int = 0


def run(
    spec: StudySpec,
    *,
    database: str,
    artifacts: Path,
    observe: Observer = silent,
    address: str | None = None,
) -> StudyResult:
    """Run a study, or go on with it where it was left.

    Args:
        spec: the study.
        database: URL of the study database; made if it isn't there.
        artifacts: folder where weights and bundles go.
        observe: told how it goes.
        address: of a Ray cluster; None starts Ray on this machine.

    Raises:
        InputError: something is wrong with the study, found before anything was written.
        WorkError: the search has no result, or the study was lost to another driver or a failing database.
    """
    threads = max(1, len(os.sched_getaffinity(0)))
    cache = cache_folder()
    _refuse_conflicts(spec, database)
    prepared = prepare(spec, cache=cache, threads=threads, observe=observe)
    for warning in prepared.warnings:
        observe(Snapshot(phase="check", note=warning))
    with Store.open(database, create=True) as store:
        record = _enter(store, prepared)
        lease = store.acquire(spec.study, owner=_owner(), seconds=LEASE_SECONDS, stale=_surely_dead)
        interruption = Interruption()
        state, reason = StudyState.FAILED, "the driver failed"
        with _signals(interruption):
            try:
                # The heartbeat must have ended before the lease is given back.
                with _heartbeat(store, lease, interruption):
                    if record.spec != spec.to_json():
                        store.update_study(lease, spec=spec.to_json())
                    folder = artifacts / f"{record.name}-{record.created:%Y%m%d%H%M%S%f}"
                    model = _search_and_finish(
                        prepared, store, lease, record, folder, cache, interruption, observe, address
                    )
                state, reason = (
                    (StudyState.INTERRUPTED, interruption.reason)
                    if interruption.reason
                    else (StudyState.COMPLETE, "")
                )
            except KeyboardInterrupt:
                state, reason = StudyState.INTERRUPTED, "interrupted twice"
                raise
            except BaseException as error:
                reason = f"{type(error).__name__}: {error}"[:500]
                raise
            finally:
                with contextlib.suppress(StudyConflictError, DatabaseError):
                    store.release(lease, state=state, reason=reason)
        if interruption.reason and not interruption.signal:
            raise SearchError(
                f"The search was stopped: {interruption.reason}", hint="The same command goes on with it."
            )
        best = store.best(spec.study)
        return StudyResult(
            study=store.study(spec.study),
            model=model,
            best=best[0] if best else None,
            interrupted=interruption.reason,
            signal=interruption.signal,
        )


def _search_and_finish(
    prepared: Prepared,
    store: Store,
    lease: Lease,
    record: StudyRecord,
    folder: Path,
    cache: Path,
    interruption: Interruption,
    observe: Observer,
    address: str | None,
) -> ModelRecord | None:
    spec = prepared.spec
    trials = store.trials(spec.study)
    searched = [trial for trial in trials if trial.role is TrialRole.SEARCH]
    ended = [t for t in searched if t.state.final and t.state is not TrialState.CANCELLED]
    left_open = [finish.again(t) for t in searched if t not in ended]
    ledger = Ledger(spec.budget, started=len(searched), spent=record.seconds)
    model = store.model(spec.study)
    if model is not None and not finish.intact(model):
        observe(Snapshot(phase="check", note=f"{model.uri} isn't what was written: it is made anew"))
        model = None
    nothing_left = ledger.deadline <= time.time() or (not left_open and ledger.trials_left == 0)
    if model is not None and nothing_left:
        return model
    finish.sweep(folder, trials)

    def stopping() -> str:
        return interruption.reason

    heads = is_heads(prepared.strategies)
    at_once = spec.search.heads_per_trial or _heads_at_once(prepared)
    groups = {info.name: len(info.groups) for info in prepared.backbones}
    try:

        def drive(
            source: PointSource,
            *,
            phase: str,
            total: int | None,
            deadline: float,
            finished: list[TrialRecord],
            prune: bool,
        ) -> None:
            observe(Snapshot(phase="start workers"))
            ray_tune.start(address=address)
            gpus = spec.resources.gpus_per_trial
            if gpus is None:
                gpus = 1.0 if ray_tune.has_gpus() else 0.0
            slots = ray_tune.slots(cpus_per_trial=spec.resources.cpus_per_trial, gpus_per_trial=gpus)
            slots = min(slots, spec.resources.concurrent or slots)
            driver = Driver(
                store=store,
                lease=lease,
                spec=spec,
                source=source,
                ledger=ledger,
                deadline=deadline,
                slots=slots,
                groups=groups,
                heads=heads,
                phase=phase,
                total=total,
                finished=finished,
                observe=observe,
                stopping=stopping,
            )
            try:
                ray_tune.run(
                    driver,
                    assignment=Assignment(
                        spec=spec,
                        cache=cache.resolve(),
                        artifacts=folder.resolve(),
                        cache_bytes=cache_limit(cache),
                        threads=spec.resources.cpus_per_trial,
                        cuda=gpus > 0,
                        data=prepared.data,
                    ),
                    cpus_per_trial=spec.resources.cpus_per_trial,
                    gpus_per_trial=gpus,
                    slots=slots,
                    epochs=spec.budget.epochs,
                    minimize=spec.objective.minimize,
                    prune=prune,
                    deadline=deadline,
                )
            except WorkError:
                if not stopping():  # whoever stops us may have stopped Ray's processes as well
                    raise
            finally:
                driver.close()

        sampler = Sampler(
            prepared.space,
            kind=spec.search.sampler,
            minimize=spec.objective.minimize,
            # Resumed with the same seed it would draw again the very points that were tried already.
            seed=spec.seed + len(searched),
        )
        sampler.rebuild(ended)
        searching = Searching(
            sampler,
            ledger,
            left_open=left_open,
            next_number=store.next_number(spec.study),
            seed=spec.seed,
            heads=heads,
            at_once=at_once,
        )
        if not nothing_left:
            drive(
                searching,
                phase="search",
                total=spec.budget.trials,
                deadline=ledger.search_deadline,
                finished=ended,
                prune=spec.search.pruner == "asha",
            )
        if stopping():
            return store.model(spec.study)
        if searching.exhausted:
            observe(Snapshot(phase="search", note="the space is exhausted: every point was tried"))
        finalists = store.best(spec.study, limit=spec.search.finalists)
        if not finalists:
            raise SearchError(
                "No trial completed.",
                hint=f"`tlsearch trials {spec.study}` says why each ended as it did.",
            )
        points = finish.confirmations(
            finalists,
            store.trials(spec.study, role=TrialRole.CONFIRM),
            seeds=spec.search.confirm_seeds if len(finalists) > 1 else 0,
            first_number=store.next_number(spec.study),
        )
        if points and time.time() < ledger.deadline:
            drive(
                Fixed(points, heads=heads, at_once=at_once),
                phase="confirm the best",
                total=len(points),
                deadline=ledger.deadline,
                finished=[],
                prune=False,
            )
        if stopping():
            return store.model(spec.study)
    finally:
        ray_tune.stop()
    if model is not None and store.trials(spec.study) == trials:
        return model  # nothing was left to try: what was found before stands, its test set stays closed
    observe(Snapshot(phase="verify the winner"))
    confirmed = store.trials(spec.study, role=TrialRole.CONFIRM)
    candidates = finish.ranked(finalists, confirmed, minimize=spec.objective.minimize)
    model, refused = finish.promote(
        candidates,
        store=store,
        lease=lease,
        prepared=prepared,
        folder=folder,
        provenance={"study": spec.study, "created": record.created.isoformat()},
        stopping=stopping,
    )
    for sentence in refused:
        observe(Snapshot(phase="verify the winner", note=sentence))
    if model is None:
        return store.model(spec.study)
    _drop_confirmations(store, lease, confirmed)
    finish.sweep(folder, store.trials(spec.study), model)
    return model


def _drop_confirmations(store: Store, lease: Lease, confirmed: list[TrialRecord]) -> None:
    """Weights of repeated runs have told what they had to tell."""
    kept = [trial for trial in confirmed if trial.artifact is not None]
    store.forget_artifacts(lease, [trial.number for trial in kept])
    for trial in kept:
        if trial.artifact is not None:
            Path(trial.artifact.uri).unlink(missing_ok=True)


def _heads_at_once(prepared: Prepared) -> int:
    """Heads in one turn: many, but no branch of heads gets more than a third of the trials unasked."""
    branches = sum(branch.heads for branch in prepared.space.branches)
    return max(1, min(32, prepared.spec.budget.trials // (3 * max(1, branches))))


def _refuse_conflicts(spec: StudySpec, database: str) -> None:
    """Look at the database, if there is one, and at a study of that name in it, before any work is done."""
    if not exists(database):
        return
    with Store.open(database) as store:
        known = store.find_study(spec.study)
        if known is not None:
            _refuse_changed(known, spec)
            store.refuse_held(spec.study, stale=_surely_dead)


def _enter(store: Store, prepared: Prepared) -> StudyRecord:
    spec = prepared.spec
    known = store.find_study(spec.study)
    if known is None:
        return store.create_study(
            name=spec.study,
            spec=spec.to_json(),
            metric=spec.objective.metric,
            direction="minimize" if spec.objective.minimize else "maximize",
            dataset=prepared.dataset,
            plugins=prepared.plugins,
            versions=prepared.versions,
        )
    _refuse_changed(known, spec)
    if known.fingerprint != prepared.dataset.fingerprint:
        raise StudyConflictError(
            f'The data of study "{spec.study}" has changed since it was begun.',
            hint="Give the study another name: scores on other data can't be compared.",
        )
    return known


def _refuse_changed(known: StudyRecord, spec: StudySpec) -> None:
    before, now = _comparable(known.spec), _comparable(spec.to_json())
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise StudyConflictError(
            f'A study "{spec.study}" exists and differs in: {", ".join(changed)}.',
            hint="Give the study another name. Only these may change: " + ", ".join(FREE_TO_CHANGE) + ".",
        )


def _comparable(spec: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """A study as dotted keys and values, without what may change."""
    flat: dict[str, object] = {}
    for key, value in spec.items():
        path = f"{prefix}{key}"
        if path in FREE_TO_CHANGE:
            continue
        if isinstance(value, Mapping):
            flat.update(_comparable(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def _owner() -> str:
    process = psutil.Process()
    return f"{getpass.getuser()}@{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def _surely_dead(owner: str) -> bool:
    """Whether a lease's owner was a process of this machine that doesn't live any more."""
    try:
        where, pid, started = owner.rsplit(":", 2)
        if where.partition("@")[2] != socket.gethostname():
            return False
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
    except (ValueError, psutil.Error):
        return False


@contextlib.contextmanager
def _heartbeat(store: Store, lease: Lease, interruption: Interruption) -> Iterator[None]:
    """Renew the lease and count search time until the block ends."""
    over = threading.Event()

    def beat() -> None:
        last = time.monotonic()
        while True:
            ended = over.wait(RENEW_SECONDS)
            now = time.monotonic()
            try:
                store.renew(lease, seconds=LEASE_SECONDS, elapsed=now - last)
                last = now
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
def _signals(interruption: Interruption) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a clean stop; the second ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        if interruption.signal:
            raise KeyboardInterrupt
        interruption.signal = number
        interruption.reason = f"interrupted by {signal.Signals(number).name}"

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
