"""What flows between the rooms: frozen data, no behaviour beyond what it derives from itself."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

Scalar = bool | int | float | str | None
Params = Mapping[str, Scalar]
"""A strategy's hyperparameters by their own names (``learning_rate``, not ``fine_tune.learning_rate``)."""


HANDED_OUT = "handed_out"
"""Beside the splits in a model's metrics: numbers that say what the model is made of."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What pictures are made of: how many channels, and how many bits are kept of each (8 or 16)."""

    channels: int = 3
    bits: int = 8


RGB = Pixels()
LEAST_SIDE, MOST_SIDE = 8, 4096
"""Pixels of a side that a backbone may be given."""
MOST_CHANNELS = 512
"""Of a picture; more are of hyperspectral cameras, and a convolution of as many is no pretrained one."""


class TrialState(enum.StrEnum):
    """Where a trial stands. Every trial ends in one of the last four, with a reason."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """Whether the trial has ended."""
        return self is not TrialState.RUNNING


class StudyState(enum.StrEnum):
    """Where a study stands. All but the last can be gone on with."""

    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class StudyRequest(enum.StrEnum):
    """What somebody asks of a study from elsewhere: to stop for now, or for good."""

    PAUSE = "pause"
    CANCEL = "cancel"


class TrialRole(enum.StrEnum):
    """Why a trial is there: to be the best (proposed, or combined of others), to confirm a finalist, or to
    train the winner's recipe on all items but those of the test split."""

    SEARCH = "search"
    CONFIRM = "confirm"
    REFIT = "refit"


@dataclass(frozen=True, slots=True)
class Point:
    """One proposal: what to train, with which hyperparameters and which seed.

    ``confirms`` is the number of the search trial that a CONFIRM or REFIT point repeats with a fresh seed.
    ``epochs`` is how many it trains; None: as many as the study gives a trial at most.
    """

    number: int
    backbone: str
    strategy: str
    params: Params
    seed: int
    attempt: int = 1
    role: TrialRole = TrialRole.SEARCH
    confirms: int | None = None
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """What a trial used. Seconds are wall-clock on the worker; images are counted, not estimated.

    ``prefix_images`` went through frozen layers, all of them or some (0 when stored activations served), and
    ``suffix_images`` through the trained part; ``flops`` is their sum in floating point operations,
    a backward pass counted as two forward passes.
    """

    seconds: float = 0.0
    prefix_images: int = 0
    suffix_images: int = 0
    flops: float = 0.0
    trainable_parameters: int = 0
    total_parameters: int = 0


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was written, flushed to disk and renamed into place."""

    uri: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended, as its worker tells it.

    ``freeze_depth`` of ``groups`` groups were frozen; the driver fills that in. ``cache`` says what
    served the frozen prefix: ``prefix`` (stored activations), or ``none: <reason>``.
    """

    state: TrialState
    reason: str
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    freeze_depth: int | None = None
    groups: int | None = None
    cache: str = ""
    artifact: Artifact | None = None


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One epoch of one trial; the last one of a trial carries its ``outcome``.

    ``epoch`` counts from 1; a head fitted in one shot reports epoch 1 of 1. ``value`` is the
    study's metric on the validation split, ``metrics`` whatever else was measured
    (``train_loss``, ``stop_<metric>``, ``learning_rate``, ...). ``grace`` is how many epochs must pass
    before the trial may be compared with others; ``node`` is where it ran, as far as that is known.
    ``costs`` and ``cache`` are as in an outcome, so far: a trial that others stop has none of its own.
    """

    number: int
    attempt: int
    epoch: int
    epochs: int
    value: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    outcome: Outcome | None = None
    grace: int = 0
    node: str = ""
    costs: Costs = field(default_factory=Costs)
    cache: str = ""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """A point of a stored learning curve."""

    epoch: int
    value: float | None
    metrics: Mapping[str, float]
    seconds: float
    attempt: int = 1


CUT_SHORT = "stopped at the time budget"
"""What the reason of a trial begins with that was trained for less than its length."""
OUT_OF_TIME = "the time budget ran out"
"""What the reason of one begins with that has no model for it."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial as the study database holds it. Times are UTC."""

    study: str
    number: int
    state: TrialState
    reason: str
    role: TrialRole
    confirms: int | None
    backbone: str
    strategy: str
    freeze_depth: int | None
    groups: int | None
    params: Params
    value: float | None
    metrics: Mapping[str, float]
    costs: Costs
    seed: int
    attempt: int
    cache: str
    node: str
    started: datetime
    finished: datetime | None
    artifact: Artifact | None

    @property
    def cut_short(self) -> bool:
        """Whether it has a model that it trained for less than its length, as the time budget ran out."""
        return self.state is TrialState.COMPLETE and self.reason.startswith(CUT_SHORT)

    @property
    def point(self) -> Point:
        """The proposal that this trial ran."""
        return Point(
            number=self.number,
            backbone=self.backbone,
            strategy=self.strategy,
            params=self.params,
            seed=self.seed,
            attempt=self.attempt,
            role=self.role,
            confirms=self.confirms,
        )


@dataclass(frozen=True, slots=True)
class PluginVersion:
    """Which installed distribution a plugin came from."""

    group: str
    name: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """The data of a study: what it is, not where it lies.

    ``fingerprint`` is a SHA-256 over the content and label of every item, the same on any machine.
    ``counts`` maps each split to its number of items; ``broken`` names the items set aside.
    """

    fingerprint: str
    source: str
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    broken: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what its targets are: classes, columns or labels."""
        return self.classes


@dataclass(frozen=True, slots=True)
class StudyItems:
    """The items of a study's data, fixed when it was prepared first; scores are of these and no others.

    ``names``, ``hashes`` (SHA-256 of the content), ``labels`` (class names) and ``splits`` (``train``,
    ``stop``, ``val`` or ``test``) are parallel. ``aside`` holds positions of items that can't be decoded:
    no split has them. ``source`` is the fingerprint of the study's source data, empty where it has none.
    """

    names: tuple[str, ...]
    hashes: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    aside: tuple[int, ...] = ()
    source: str = ""

    def of(self, *splits: str) -> list[int]:
        """Positions of the usable items of some splits, ascending."""
        aside = set(self.aside)
        return [at for at, split in enumerate(self.splits) if split in splits and at not in aside]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        columns = {name: tuple(found[name]) for name in ("names", "hashes", "labels", "splits", "aside")}
        return cls(**columns, source=str(found["source"]))


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study as the database holds it. Times are UTC; ``seconds`` is search time, downtime not counted.

    ``owner`` created it; ``parent`` is the study that it was forked from, or whose data it extends: then that
    one's ``fingerprint`` is another. ``request`` is what
    ``requested_by`` asked of it and its driver hasn't done yet. ``priority`` weighs it against others on
    the same cluster. ``job`` is the cluster's job that ran it last. ``audit`` is what was found in its data.
    ``counts`` are of all trials by state, ``searched`` of those of the search: the trials that a study tells
    of; the others repeat or refit the best of these.
    """

    name: str
    state: StudyState
    reason: str
    spec: Mapping[str, Any]
    metric: str
    direction: str
    fingerprint: str
    plugins: tuple[PluginVersion, ...]
    versions: Mapping[str, str]
    seconds: float
    created: datetime
    updated: datetime
    counts: Mapping[TrialState, int]
    owner: str = ""
    parent: str | None = None
    request: StudyRequest | None = None
    requested_by: str | None = None
    priority: int = 1
    job: str = ""
    cluster: str = ""
    audit: Mapping[str, Any] = field(default_factory=dict)
    searched: Mapping[TrialState, int] = field(default_factory=dict)

    @property
    def reruns(self) -> int:
        """Trials that repeat or refit the best ones of the search."""
        return sum(self.counts.values()) - sum(self.searched.values())


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A verified model: the bundle's place, its checksum, and its scores.

    ``metrics`` maps splits to metric names and values: ``val`` are those of the search's winner, ``test``,
    once it was opened, those of this very model, with the ends of their 95% intervals as ``NAME_low`` and
    ``NAME_high`` where items could be resampled. Both tell in how many ``groups`` their items come, where
    they do. `HANDED_OUT` stands beside them: ``members`` that are averaged, ``refitted`` on all items but the
    test split's (1) or not (0), ``flips`` (1, 0), and ``test_openings``, how often the study has opened its
    test set. ``trial`` is the search trial whose weights these are, or whose recipe was refitted.
    """

    study: str
    trial: int
    uri: str
    sha256: str
    bytes: int
    verified: bool
    metrics: Mapping[str, Mapping[str, float]]
    created: datetime
