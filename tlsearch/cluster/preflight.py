"""What would fail on a cluster, known before GPU time is spent on it, with the node and the remedy.

One task a node compares packages, reads the data and meets the others in the artifact store; one task for
each backbone and kind of node trains a single batch.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tlsearch import artifacts, registry
from tlsearch.cluster import examine
from tlsearch.cluster.examine import Found, Needs
from tlsearch.cluster.nodes import Failure, Node, unfit
from tlsearch.counts import plural
from tlsearch.errors import DatabaseError, InputError
from tlsearch.records import TrialState
from tlsearch.search import ray_cluster
from tlsearch.search.plugin_choice import resolve_strategies
from tlsearch.search.progress import Observer, Snapshot, silent
from tlsearch.spec import StudySpec

NODE_SECONDS = 180.0
"""For all nodes to answer; the first task on a node imports what tlsearch needs."""
BATCH_SECONDS = 300.0
"""For all batches; a node that is busy with other studies for longer isn't tried."""


def check(
    spec: StudySpec, *, address: str, database: str, place: str, observe: Observer = silent
) -> list[str]:
    """Examine all nodes of the cluster that a study is to run on; joins it.

    Args:
        spec: the study.
        address: of the cluster, as `ray.init` takes it.
        database: URL of the study database, which this process must be able to write to.
        place: of weights and models, which every node must be able to write to.
        observe: told how it goes.

    Returns:
        Sentences for what couldn't be examined, or will work but slower than need be.

    Raises:
        InputError: something would fail; the message has a line for each node and problem.
        WorkError: there is no such cluster.
    """
    tried = _backbones_tried(spec, database)
    ray_cluster.start(address=address)
    found = nodes()
    observe(Snapshot(phase="preflight", done=0, total=len(found)))
    failures = unfit(spec, found)
    told: list[str] = []
    if not failures:
        failures = _examine(spec, found, place)
    if not failures:
        observe(Snapshot(phase="preflight", done=len(found), total=len(found)))
        failures, told = _try_batches(spec, found, [b.name for b in spec.backbones if b.name not in tried])
    if failures:
        lines = "\n".join(f"  {failure}" for failure in failures)
        raise InputError(f'The cluster can\'t run study "{spec.study}":\n{lines}')
    return told


def nodes() -> list[Node]:
    """The living nodes of the cluster that this process has joined, by name."""
    found = []
    for row in ray.nodes():
        has = row["Resources"]
        kind = next((name for name in sorted(has) if name.startswith("accelerator_type:")), "")
        name = row["NodeName"]
        if name == row["NodeManagerAddress"]:
            name = f"{row['NodeManagerHostname']} ({name})"
        if row["Alive"]:
            found.append(
                Node(
                    id=row["NodeID"],
                    name=name,
                    cpus=has.get("CPU", 0.0),
                    gpus=has.get("GPU", 0.0),
                    memory=has.get("memory", 0.0),
                    accelerator=kind,
                )
            )
    return sorted(found, key=lambda node: node.name)


def _backbones_tried(spec: StudySpec, database: str) -> set[str]:
    """Make sure of the database; answers backbones that completed a trial of this study before."""
    from tlsearch.database.store import Store

    try:
        with Store.open(database, create=True) as store:
            if store.find_study(spec.study) is None:
                return set()
            complete = store.trials(spec.study, states=[TrialState.COMPLETE])
            return {trial.backbone for trial in complete}
    except DatabaseError as error:
        raise DatabaseError(
            f"The driver's node: {error.message}",
            hint=error.hint or "It must reach the database under this URL, with a password in PGPASSWORD.",
        ) from None


def _examine(spec: StudySpec, found: Sequence[Node], place: str) -> list[Failure]:
    strategies, _ = resolve_strategies(spec)
    used = [(registry.STRATEGIES, name) for name in strategies]
    used += [(registry.BACKBONES, family) for family in spec.families]
    used += [(registry.DATASETS, data.source) for data in (spec.data, spec.source_data) if data is not None]
    plugins = tuple(dict.fromkeys(used))
    with _meeting(place) as meeting:
        needs = Needs(spec=spec, plugins=plugins, meeting=meeting)
        mine = examine.examine(needs, "driver")
        answers = _on_each(found, examine.examine, needs)
        arrived = set(artifacts.listed(meeting))
    failures = []
    for node, answer in zip(found, answers, strict=True):
        if isinstance(answer, str):
            failures.append(Failure(node.name, answer, "Install on it what the other nodes have."))
            continue
        failures += [Failure(node.name, problem, remedy) for problem, remedy in answer.problems]
        failures += _other_packages(node, answer, mine)
        if not answer.problems and f"{node.id}.txt" not in arrived:
            failures.append(
                Failure(
                    node.name,
                    f"what it writes to {place} isn't seen by the driver's node.",
                    "Give a directory that all nodes share, or a store such as s3://BUCKET/PREFIX.",
                )
            )
    failures += [Failure("the driver's node", problem, remedy) for problem, remedy in mine.problems]
    return failures


def _other_packages(node: Node, answer: Found, mine: Found) -> list[Failure]:
    """Packages that differ between a node and the driver's."""
    return [
        Failure(
            node.name,
            f"it has {name} {answer.packages.get(name, 'not installed')}, the driver's node {version}.",
            f"Install {name} {version} on it.",
        )
        for name, version in mine.packages.items()
        if answer.packages.get(name) != version
    ]


@contextlib.contextmanager
def _meeting(place: str) -> Iterator[str]:
    """A place in the artifact store where all nodes leave a note."""
    meeting = artifacts.join(artifacts.normal(place), f".preflight-{uuid.uuid4().hex}")
    try:
        yield meeting
    finally:
        with contextlib.suppress(OSError):
            artifacts.delete_all(meeting)


def _on_each(found: Sequence[Node], work: Any, needs: Needs) -> list[Found | str]:
    """What the work answers on each node, or a sentence for why it doesn't."""
    task = ray.remote(num_cpus=0, max_retries=0)(work)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
            needs, node.id
        ): node
        for node in found
    }
    answers: dict[str, Found | str] = {}
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
    for reference in ready:
        try:
            answers[asked[reference].id] = ray.get(reference)
        except ray.exceptions.RayError as error:
            answers[asked[reference].id] = f"tlsearch doesn't run there: {_last_line(error)}."
    for reference in late:
        ray.cancel(reference, force=True)
        answers[asked[reference].id] = f"it didn't answer within {NODE_SECONDS:.0f} s."
    return [answers[node.id] for node in found]


def _try_batches(
    spec: StudySpec, found: Sequence[Node], backbones: Sequence[str]
) -> tuple[list[Failure], list[str]]:
    """Train one batch of each backbone on a node of each kind; failures, and what else is worth telling."""
    asked = spec.resources
    fitting = [n for n in found if n.cpus >= asked.cpus_per_trial and n.gpus >= (asked.gpus_per_trial or 0)]
    if asked.gpus_per_trial is None and any(node.gpus for node in fitting):
        fitting = [node for node in fitting if node.gpus]
    kinds: Mapping[tuple[object, ...], Node] = {node.kind: node for node in reversed(fitting)}
    batches = {}
    for node in kinds.values():
        gpus = min(node.gpus, 1.0) if asked.gpus_per_trial is None else asked.gpus_per_trial
        task = ray.remote(num_cpus=asked.cpus_per_trial, num_gpus=gpus, max_retries=0)(examine.try_batch)
        placed = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))
        batches.update({placed.remote(spec, name, gpus > 0): (node, name) for name in backbones})
    if not batches:
        return [], []
    failures, told = [], []
    ready, late = ray.wait(list(batches), num_returns=len(batches), timeout=BATCH_SECONDS)
    for reference in ready:
        node, name = batches[reference]
        try:
            asked_for, fits = ray.get(reference)
        except ray.exceptions.RayError as error:
            remedy = "Take a smaller backbone or image_size, or nodes with more memory."
            failures.append(Failure(node.name, f"{name} doesn't train: {_last_line(error)}.", remedy))
            continue
        if fits < asked_for:
            told.append(
                f"{node.name}: {name} trains {plural(fits, 'item')} at a time, not {asked_for}: "
                "memory is short"
            )
    for reference in late:
        node, name = batches[reference]
        ray.cancel(reference, force=True)
        told.append(f"{node.name}: {name} wasn't tried; the node was busy for {BATCH_SECONDS:.0f} s")
    return failures, told


def _last_line(error: BaseException) -> str:
    """The line of a remote traceback that says what happened."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")
