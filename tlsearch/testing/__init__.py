"""Contract tests and tiny fixtures for plugin authors.

    from tlsearch.testing import StrategyContract


    class TestModest(StrategyContract):
        strategy = "modest"

Without pytest: `check_strategy`, `check_backbone`, `check_dataset`, `check_combination`, `check_task`, or
``tlsearch plugins check NAME``.
"""

from tlsearch.testing.backbones import BackboneContract, check_backbone
from tlsearch.testing.combinations import CombinationContract, check_combination
from tlsearch.testing.contract import CheckResult
from tlsearch.testing.datasets import DatasetContract, check_dataset
from tlsearch.testing.fixtures import TinyTask, classes, installed, tiny_cnn, tiny_task, tiny_vit
from tlsearch.testing.strategies import StrategyContract, check_strategy
from tlsearch.testing.tasks import TaskContract, check_task
from tlsearch.testing.trial_backends import TrialBackendContract

__all__ = [
    "BackboneContract",
    "CheckResult",
    "CombinationContract",
    "DatasetContract",
    "StrategyContract",
    "TaskContract",
    "TinyTask",
    "TrialBackendContract",
    "check_backbone",
    "check_combination",
    "check_dataset",
    "check_strategy",
    "check_task",
    "classes",
    "installed",
    "tiny_cnn",
    "tiny_task",
    "tiny_vit",
]
