"""All that a plugin author implements, and nothing else."""

from tlsearch.contracts.backbone import (
    Backbone,
    BackboneFamily,
    BackboneInfo,
    LinearHead,
    Pretrained,
    describe,
    frozen_groups,
    opaque,
)
from tlsearch.contracts.combination import (
    Combination,
    CombinationTask,
    Combined,
    Member,
    Score,
    State,
)
from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, NoOptions, Samples
from tlsearch.contracts.figure import Figure
from tlsearch.contracts.fine_tuning import FineTuning, number, rate_factor
from tlsearch.contracts.inputs import InputSpec
from tlsearch.contracts.layers import Level
from tlsearch.contracts.maps import MapTask, PlaceTask
from tlsearch.contracts.metric import Metric
from tlsearch.contracts.recipe import API_VERSION, LinearRecipe, Recipe
from tlsearch.contracts.strategy import (
    Batch,
    Forward,
    HeadPoint,
    HeadStrategy,
    HeadTask,
    Space,
    Strategy,
    joined,
    split_decay,
)
from tlsearch.contracts.target import Strata, TargetSpec
from tlsearch.contracts.task import Evaluator, Scores, Task

__all__ = [
    "API_VERSION",
    "Backbone",
    "BackboneFamily",
    "BackboneInfo",
    "Batch",
    "Combination",
    "CombinationTask",
    "Combined",
    "DatasetOptions",
    "DatasetSource",
    "Evaluator",
    "Figure",
    "FineTuning",
    "Forward",
    "HeadPoint",
    "HeadStrategy",
    "HeadTask",
    "InputSpec",
    "Level",
    "LinearHead",
    "LinearRecipe",
    "MapTask",
    "Member",
    "Metric",
    "NoOptions",
    "PlaceTask",
    "Pretrained",
    "Recipe",
    "Samples",
    "Score",
    "Scores",
    "Space",
    "State",
    "Strata",
    "Strategy",
    "TargetSpec",
    "Task",
    "describe",
    "frozen_groups",
    "joined",
    "number",
    "opaque",
    "rate_factor",
    "split_decay",
]
