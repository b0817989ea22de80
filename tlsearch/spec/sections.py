"""The sections of a study file: what they hold, within which bounds, with which defaults."""

from __future__ import annotations

import json
import math
import re
import typing
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    field_validator,
    model_validator,
)

from tlsearch.names import STUDY_NAMING, composed, is_study_name
from tlsearch.records import LEAST_SIDE, MOST_CHANNELS, MOST_SIDE, RGB, Pixels

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

FEW_VIEWS, MANY_VIEWS = 4, 32
"""Views that are stored. Of pictures that are cropped and turned, four were seen so often in 300 updates that
the network was worse than one that had seen them mirrored alone; 16 were as good, a fresh one in each of the
32 passes over 300 items better (on clothes and solar cells: -0.7, 0.4 and 1.4 points)."""


def _scalar(given: Any) -> Any:
    if not isinstance(given, bool | int | float | str) or (
        isinstance(given, float) and not math.isfinite(given)
    ):
        raise ValueError("must be a finite number, a text, true or false")
    return given


Scalar = Annotated[bool | int | float | str, PlainValidator(_scalar)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class SplitSpec(_Section):
    """Shares of the data; ``stop`` is cut from the training part, for early stopping only."""

    val: Fraction = 0.15
    """Trials are compared on it."""
    test: Fraction = 0.15
    """Opened once, for the winner; 0 for none."""
    stop: Fraction = 0.1
    """Of what is left for training: decides when a trial stops early, and which epoch is kept."""

    @model_validator(mode="after")
    def _leaves_something(self) -> SplitSpec:
        if self.val <= 0:
            raise ValueError("val must be above 0: trials are compared on it")
        if self.val + self.test >= 0.9:
            raise ValueError("val and test together must leave at least 0.1 for training")
        return self


class DataSpec(BaseModel):
    """A data set: its source, how it is split, and the source's own keys (``options``)."""

    model_config = ConfigDict(
        extra="allow", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    source: str
    """A data set plugin, such as folder or table; `tlsearch plugins datasets` lists them with their keys."""
    split: SplitSpec = SplitSpec()
    image_size: Annotated[int, Field(ge=LEAST_SIDE, le=MOST_SIDE)] | None = None
    """Pixels of a side, where a backbone's name has none (family/variant@96); else the backbone's own."""
    resize: Literal["crop", "pad", "squash"] | None = None
    """How a picture becomes a square: its centre is cut out (also where this is left out), bars are added, or
    it is squeezed; the last two cut nothing off."""
    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)] | None = None
    """Channels of a picture, where they aren't RGB (3): the backbone's first convolution is adapted to them.
    1 is grey; of other numbers, such as 5 of a multi-spectral TIFF or NumPy file, all files must be."""
    bits: Literal[8, 16] | None = None
    """How many bits of a channel are kept, 8 where this is left out; 16 for pictures that have more."""
    corrected: Annotated[str, Field(min_length=1)] | None = None
    """A table whose column corrected replaces labels, as `tlsearch audit --labels` writes it."""
    groups: Annotated[str, Field(min_length=1)] | None = None
    """Items that never stand in two splits: those of one folder (folder), pictures that a camera took within
    seconds (exif), or names in which the first group of a regular expression is the same."""
    time: Literal["exif"] | None = None
    """What makes the newest items the test split, those before them val: when pictures were taken, by what
    they say (exif). A table has a time_column for it."""
    horizontal_flip: bool | None = None
    """Whether a mirrored image keeps its label; the source's own judgement where it is left out."""
    max_broken: Fraction = 0.05
    """Share of items that may be unreadable; they are set aside and named."""
    max_overlap: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Share of validation and test items that may have copies in training, where the data brings splits."""

    @property
    def pixels(self) -> Pixels:
        """What the backbone is given of a picture."""
        return Pixels(self.channels or RGB.channels, self.bits or RGB.bits)

    @property
    def options(self) -> dict[str, Any]:
        """Keys that belong to the source plugin, not yet validated."""
        return dict(self.model_extra or {})


BACKBONE_SHAPE = r"^[^/\s]+/\S+$"


def _backbone_name(given: str) -> str:
    if not re.fullmatch(BACKBONE_SHAPE, given):
        raise ValueError("must be family/variant, such as efficientnet_lite/lite0 (see `tlsearch backbones`)")
    return given


class BackboneSpec(_Section):
    """A backbone and where its weights come from: ``pretrained``, ``random``, or a file."""

    name: Annotated[
        str,
        AfterValidator(_backbone_name),
        Field(max_length=200, json_schema_extra={"pattern": BACKBONE_SHAPE}),
    ]
    """family/variant; `tlsearch backbones` lists them. At another size of pictures than the study's it is
    family/variant@96; the search chooses among sizes that are listed so."""
    weights: str = "pretrained"
    """pretrained, random, or a file."""


class Override(_Section):
    """A hyperparameter's range as the user wants it: ``low``/``high``, ``choices`` or a fixed ``value``."""

    low: float | None = None
    high: float | None = None
    log: bool | None = None
    step: float | None = None
    choices: tuple[Scalar, ...] | None = None
    value: Scalar | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, given: Any) -> Any:
        if isinstance(given, bool | int | float | str):
            return {"value": given}
        if isinstance(given, list | tuple):
            return {"choices": tuple(given)}
        return given

    @model_validator(mode="after")
    def _one_form(self) -> Override:
        ranged = any(field is not None for field in (self.low, self.high, self.log, self.step))
        if sum((ranged, self.choices is not None, self.value is not None)) != 1:
            raise ValueError("give a range (low, high, log, step), or a list of choices, or one value")
        if self.choices is not None and not self.choices:
            raise ValueError("the list of choices is empty")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is above high ({self.high:g})")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError(f"a log range must start above 0, not at {self.low:g}")
        return self


class ObjectiveSpec(_Section):
    """What is compared on the validation split."""

    metric: str = ""
    """One of the task's, its first where it is left out: accuracy; balanced_accuracy or macro_f1 where
    classes are unequal."""
    direction: Literal["maximize", "minimize"] | None = None
    """Follows from the metric; may be said, not changed."""


ROUNDS = 12
"""Evaluations of a trial whose length follows from the data. Trials of any length have as many, so that they
are compared at equal shares of their learning rate's schedule."""


class BudgetSpec(_Section):
    """Whichever of trials and minutes comes first ends the search."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 60
    """Points that are tried."""
    minutes: Annotated[float, Field(gt=0, le=60 * 24 * 365)] | None = None
    """From the command's start to the verified model; of interrupted runs, the time while they ran; without a
    limit where it is left out."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Passes over the data of one trial at most; where they are left out, the length follows from the data
    and is searched."""

    @property
    def rounds(self) -> int:
        """Evaluations of one trial: after every pass, or, where the length follows from the data, 12."""
        return self.epochs or ROUNDS


class ResourcesSpec(_Section):
    """What a trial gets, and the study beside others."""

    cpus_per_trial: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of a trial."""
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    """At most 1; fractions share one; 1 where there are GPUs and this is left out."""
    concurrent: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Trials at once at most."""
    priority: Annotated[int, Field(ge=1, le=100)] = 1
    """Weight of the study among others on the same cluster."""

    @field_validator("gpus_per_trial")
    @classmethod
    def _one_gpu(cls, given: float | None) -> float | None:
        if given is not None and given > 1:
            raise ValueError(
                "must be at most 1: a trial trains on one GPU, and more GPUs run more trials at once"
            )
        return given


class SearchSpec(_Section):
    """How to search. The defaults are meant to be left alone."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Who proposes points."""
    pruner: Literal["asha", "none"] = "asha"
    """Who stops trials that fall behind others at equal epochs."""
    heads_per_trial: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Heads that are fitted in one turn; up to 32 where it is left out."""
    views: Annotated[int, Field(ge=1, le=64)] | None = None
    """Augmented views whose activations are stored; passes over the items take turns. Left out: 4 where a
    head is fitted or pictures are only mirrored, 32 where they are changed more."""
    finalists: Annotated[int, Field(ge=1, le=20)] = 3
    """Best trials that are run again with fresh seeds."""
    confirm_seeds: Annotated[int, Field(ge=0, le=20)] = 2
    """Fresh seeds for each of them."""
    refit: bool = True
    """Whether the winner's recipe is trained once more, on all items but the test split's."""
    members: Annotated[int, Field(ge=1, le=20)] = 3
    """Seeds of a refit, whose probabilities are averaged; 1 averages nothing."""
    ensemble: bool = True
    """Whether a refit averages other strategies' finalists with the winner, where validation items say so."""
    keep: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Best trials whose weights are kept."""

    def views_of(self, policy: str, *, heads: bool) -> int:
        """How many views of a policy of augmentation are stored, for heads or for layers that train."""
        return self.views or (FEW_VIEWS if heads or policy == "flip" else MANY_VIEWS)


class AbstainSpec(_Section):
    """When a finished classifier is to say that it doesn't know."""

    unsure: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    """Share of items that may be told wrongly as sure; 0 never says unsure."""
    outsiders: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """Share of items of the study's own kind that may be called none of these; 0 never says that."""


class LoggersSpec(_Section):
    """Tools that are told of every trial while the search runs."""

    tensorboard: Annotated[str, Field(min_length=1)] | None = None
    """A folder."""
    mlflow: Annotated[str, Field(min_length=1)] | None = None
    """A tracking URI."""
    wandb: Annotated[str, Field(min_length=1)] | None = None
    """A project."""


def _listed(given: Any) -> Any:
    """Names in a text, with commas between them, as `--set strategies=a,b` gives them; a list as a tuple."""
    if isinstance(given, str):
        return tuple(name for part in given.split(",") if (name := part.strip()))
    return tuple(given) if isinstance(given, list) else given


NAME_SHAPE = r"^[^\s!-,/:-@\[-^`{-~._-][^\s!-,/:-@\[-^`{-~]{0,79}$"
"""What a schema can say of a study's name."""


def _study_name(given: str) -> str:
    name = composed(given)
    if not is_study_name(name):
        raise ValueError(STUDY_NAMING)
    return name


class StudySpec(_Section):
    """A whole study file."""

    study: Annotated[str, AfterValidator(_study_name), Field(json_schema_extra={"pattern": NAME_SHAPE})]
    """Its name in the study database: letters of any script, digits, dots, hyphens, underscores."""
    task: Annotated[str, Field(min_length=1)] | None = None
    """What is learned, such as classification; what the data's source is for, where it is left out."""
    data: DataSpec
    source_data: DataSpec | None = None
    """Labelled data like that which the backbone learned from; with it, joint training is searched too."""
    backbones: Annotated[tuple[BackboneSpec, ...], Field(min_length=1)]
    """Names, or names with weights."""
    strategies: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """All that are installed and apply, where it is left out; `tlsearch plugins strategies` lists them."""
    space: Mapping[str, Override] = Field(default_factory=dict)
    """Other ranges for hyperparameters, by strategy.hyperparameter or *.hyperparameter."""
    objective: ObjectiveSpec = ObjectiveSpec()
    budget: BudgetSpec = BudgetSpec()
    resources: ResourcesSpec = ResourcesSpec()
    search: SearchSpec = SearchSpec()
    abstain: AbstainSpec = AbstainSpec()
    loggers: LoggersSpec = LoggersSpec()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The same seed and one worker give the same points and scores."""

    @field_validator("backbones", mode="before")
    @classmethod
    def _backbone_names(cls, given: Any) -> Any:
        given = _listed(given)
        if isinstance(given, list | tuple):
            return tuple({"name": item} if isinstance(item, str) else item for item in given)
        return given

    @field_validator("strategies", mode="before")
    @classmethod
    def _strategy_names(cls, given: Any) -> Any:
        return _listed(given)

    @model_validator(mode="after")
    def _one_kind_of_pixels(self) -> StudySpec:
        given = self.source_data
        for key in ("channels", "bits"):
            own, other = getattr(given, key, None), getattr(self.data.pixels, key)
            if own is not None and own != other:
                raise ValueError(
                    f"source_data.{key}: is {other}, as in data, since one backbone takes both; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _no_doubles(self) -> StudySpec:
        for what, names in (
            ("backbones", [backbone.name for backbone in self.backbones]),
            ("strategies", list(self.strategies or ())),
        ):
            doubled = sorted(name for name, count in Counter(names).items() if count > 1)
            if doubled:
                raise ValueError(f"{what}: {', '.join(doubled)} is listed twice")
        return self

    @property
    def families(self) -> tuple[str, ...]:
        """Of its backbones, each once."""
        return tuple(dict.fromkeys(backbone.name.partition("/")[0] for backbone in self.backbones))

    def to_json(self) -> dict[str, Any]:
        """The study as plain data; `parse` takes it back."""
        plain = json.loads(self.model_dump_json(exclude_none=True))
        return typing.cast("dict[str, Any]", plain)
