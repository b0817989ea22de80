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
from tlsearch.contracts.fine_tuning import FineTuning, number, rate_factor
from tlsearch.contracts.inputs import InputSpec
from tlsearch.contracts.strategy import (
    API_VERSION,
    Batch,
    Forward,
    HeadPoint,
    HeadStrategy,
    HeadTask,
    LinearRecipe,
    Recipe,
    Space,
    Strategy,
    joined,
    split_decay,
)

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
    "FineTuning",
    "Forward",
    "HeadPoint",
    "HeadStrategy",
    "HeadTask",
    "InputSpec",
    "LinearHead",
    "LinearRecipe",
    "Member",
    "NoOptions",
    "Pretrained",
    "Recipe",
    "Samples",
    "Score",
    "Space",
    "State",
    "Strategy",
    "describe",
    "frozen_groups",
    "joined",
    "number",
    "opaque",
    "rate_factor",
    "split_decay",
]
