"""A study file (YAML) as a frozen, strictly validated `StudySpec`.

Nothing here looks at data, plugins or the database; names are resolved later by those who know them.
"""

from tlsearch.spec.reading import complaint, load, parse, unknown_option
from tlsearch.spec.schema import json_schema
from tlsearch.spec.sections import (
    AbstainSpec,
    BackboneSpec,
    BudgetSpec,
    DataSpec,
    LoggersSpec,
    ObjectiveSpec,
    Override,
    ResourcesSpec,
    SearchSpec,
    SplitSpec,
    StudySpec,
)

__all__ = [
    "AbstainSpec",
    "BackboneSpec",
    "BudgetSpec",
    "DataSpec",
    "LoggersSpec",
    "ObjectiveSpec",
    "Override",
    "ResourcesSpec",
    "SearchSpec",
    "SplitSpec",
    "StudySpec",
    "complaint",
    "json_schema",
    "load",
    "parse",
    "unknown_option",
]
