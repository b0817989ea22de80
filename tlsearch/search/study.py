"""A study from its specification to a verified model: check, search, confirm, promote; or go on with it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from tlsearch import artifacts as stores
from tlsearch.contracts import Strategy
from tlsearch.database.store import Lease, Store
from tlsearch.errors import DatabaseError, SearchError, StudyConflictError
from tlsearch.files import cache_folder, temporary_folder
from tlsearch.records import ModelRecord, StudyRecord, StudyState
from tlsearch.search import extension, lease_heartbeat, own_process, ray_cluster
from tlsearch.search.driver import HeldStudy
from tlsearch.search.lease_heartbeat import Interruption
from tlsearch.search.loggers import TrialLoggers, open_journal
from tlsearch.search.measurer import Measurer
from tlsearch.search.progress import Observer, Snapshot, silent
from tlsearch.search.registration import begun_with, enter, extended_by, refuse_conflicts
from tlsearch.search.result import StudyResult
from tlsearch.search.setup import Prepared, prepare
from tlsearch.search.study_run import RunSettings, StudyRun
from tlsearch.search.trial_queue import is_heads
from tlsearch.search.workers import refuse_more_than_here
from tlsearch.spec import StudySpec
from tlsearch.training.objective import settled


def run(
    spec: StudySpec,
    *,
    database: str,
    artifacts: str | Path,
    observe: Observer = silent,
    address: str | None = None,
    local: bool | None = None,
    again: bool = False,
    began: float | None = None,
    extends: str | None = None,
) -> StudyResult:
    """Run a study, or go on with it where it was left.

    Args:
        spec: the study.
        database: URL of the study database; made if it isn't there.
        artifacts: where checkpoints, weights and bundles go: a folder, or a URL such as s3://BUCKET/PREFIX.
        observe: told how it goes.
        address: of a Ray cluster; None starts Ray on this machine.
        local: run trials in this process, without Ray; None where TLSEARCH_LOCAL says so.
        again: this driver replaces one that died, so what was asked of that one is asked of this one.
        began: when its minutes began, as `time.time` counts; now where it is None.
        extends: the study whose data this one extends, where it is begun now; see `extension.described`.

    Raises:
        InputError: something is wrong with the study, found before anything was written.
        WorkError: the search has no result, or the study was lost to another driver or a failing database.
    """
    began = time.time() if began is None else began
    here = os.environ.get("TLSEARCH_LOCAL", "") not in ("", "0") if local is None else local
    place = stores.normal(artifacts)
    spec = settled(spec)
    known = refuse_conflicts(spec, database)
    stores.check(place)
    refuse_more_than_here(spec.resources, address=address)
    alone = address is None and not here
    short = alone and own_process.is_short(spec, spent=known.seconds if known is not None else 0.0)
    measurer = Measurer()
    over = known is not None and known.state is StudyState.COMPLETE

    def checked(strategies: Mapping[str, Strategy]) -> None:
        if alone and not over:
            _begin_ahead(spec, strategies, measurer=measurer if short else None)

    # Before Ray starts in a thread: MLflow's import beside it keeps Ray from coming up.
    journal = open_journal(spec, observe)
    try:
        threads = max(1, len(os.sched_getaffinity(0)))
        cache = cache_folder()
        temporary_folder()  # Ray and the verification want it
        there = known is not None or extends is not None
        extended = extended_by(spec.study, database, extends=extends) if there else None
        begun = begun_with(spec, database) if known is not None else None
        look = partial(prepare, spec, cache=cache, threads=threads, observe=observe, checked=checked)
        prepared = look(begun=begun, extended=extended)
        _tell(prepared, observe, short=measurer.begun)
        if extended is not None:
            prepared = extension.begin(prepared, extended, database=database, observe=observe)
        settings = RunSettings(
            cache=cache,
            observe=observe,
            address=address,
            threads=threads if short else spec.resources.cpus_per_trial if here else None,
            began=began,
            measurer=measurer,
            short=short,
        )
        with Store.open(database, create=True) as store:
            record = enter(store, prepared, parent=extends)
            return _run_prepared(
                prepared, record, settings, store=store, artifacts=place, again=again, journal=journal
            )
    finally:
        journal.close()
        measurer.close()
        ray_cluster.stop()


def _tell(prepared: Prepared, observe: Observer, *, short: bool) -> None:
    """What a study gives to worry about, and where its trials run if there is little time."""
    for warning in prepared.warnings:
        observe(Snapshot(phase="check", note=warning))
    if short:
        observe(Snapshot(phase="search", note=own_process.TOLD))


def _begin_ahead(spec: StudySpec, strategies: Mapping[str, Strategy], *, measurer: Measurer | None) -> None:
    """Begin to start what takes seconds: what remains to be done before the first trial takes as long.

    Args:
        spec: the study.
        strategies: of it, by name.
        measurer: for a search that is too short for workers.
    """
    if measurer is not None:
        measurer.begin(spec.families)
    elif not own_process.may_be_all(spec, strategies):
        ray_cluster.start_early()


def _run_prepared(
    prepared: Prepared,
    record: StudyRecord,
    settings: RunSettings,
    *,
    store: Store,
    artifacts: str,
    again: bool,
    journal: TrialLoggers,
) -> StudyResult:
    """Hold a study that is in the database, and run it to its end or until it is interrupted."""
    spec = prepared.spec
    lease = store.acquire(
        spec.study,
        owner=lease_heartbeat.this_process(),
        seconds=lease_heartbeat.LEASE_SECONDS,
        stale=lease_heartbeat.surely_dead,
        keep_request=again,
    )
    interruption = Interruption()
    with (
        lease_heartbeat.signals(interruption),
        _given_back(store, lease, interruption),
        # Inside: the heartbeat must have ended before the lease is given back.
        lease_heartbeat.heartbeat(store, lease, interruption),
    ):
        held = HeldStudy(
            store=store,
            lease=lease,
            spec=spec,
            groups={info.name: len(info.groups) for info in prepared.backbones},
            heads=is_heads(prepared.strategies),
            stopping=lambda: interruption.reason,
            journal=journal,
            combines=bool(prepared.combinations),
            place=stores.join(artifacts, f"{record.name}-{record.created:%Y%m%d%H%M%S%f}"),
        )
        _write_down(held, prepared, record)
        model = StudyRun(prepared, held, record, settings).to_the_end()
    if interruption.reason and not interruption.signal and interruption.request is None:
        raise SearchError(
            f"The search was stopped: {interruption.reason}", hint="Run the same command again."
        )
    return _result(store, spec.study, model, interruption)


@contextlib.contextmanager
def _given_back(store: Store, lease: Lease, interruption: Interruption) -> Iterator[None]:
    """Give the lease back in the end, and say in which state this leaves the study, and why."""
    state, reason = StudyState.FAILED, "the driver failed"
    try:
        yield
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


def _write_down(held: HeldStudy, prepared: Prepared, record: StudyRecord) -> None:
    """Record what this driver runs the study with, and the items that it is fixed to."""
    store, lease, spec = held.store, held.lease, held.spec
    job, priority = os.environ.get("TLSEARCH_JOB", ""), spec.resources.priority
    store.update_study(lease, spec=spec.to_json(), job=job, priority=priority)
    store.fix_items(lease, prepared.items)
    if record.audit != prepared.audit:
        store.update_study(lease, audit=prepared.audit)


def _result(store: Store, study: str, model: ModelRecord | None, interruption: Interruption) -> StudyResult:
    best = store.best(study)
    return StudyResult(
        study=store.study(study),
        model=model,
        best=best[0] if best else None,
        interrupted=interruption.reason,
        signal=interruption.signal,
    )
