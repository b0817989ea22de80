"""The JSON schema says what the reader takes, for what a schema can say."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from tlsearch.errors import SpecError
from tlsearch.spec import json_schema, parse

STUDIES = sorted((Path(__file__).resolve().parents[2] / "studies").glob("*.yaml"))
SCHEMA = Draft202012Validator(json_schema())
LEAST = {"study": "s", "data": {"source": "digits"}, "backbones": ["family/variant"]}


def test_is_a_schema():
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path):
    SCHEMA.validate(YAML(typ="safe").load(path))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"space": {"fine_tune.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}},
        {"space": {"*.augmentation": ["none", "flip"], "fine_tune.freeze_depth": 0.5}},
        {"backbones": [{"name": "family/variant", "weights": "random"}]},
        {"budget": {"trials": 3, "minutes": 0.5}},
    ],
)
def test_takes_what_the_reader_takes(more):
    parse({**LEAST, **more})
    SCHEMA.validate({**LEAST, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"bugdet": {"trials": 3}},
        {"budget": {"trials": 0}},
        {"budget": {"trials": "many"}},
        {"objective": {"metric": 1}},
        {"backbones": []},
        {"backbones": ["no-family"]},
        {"space": {"fine_tune.learning_rate": {"lowest": 1}}},
        {"study": "../x"},
        {"data": {}},
    ],
)
def test_refuses_what_the_reader_refuses(more):
    with pytest.raises(SpecError):
        parse({**LEAST, **more})
    assert not SCHEMA.is_valid({**LEAST, **more})


def test_every_key_says_what_it_means():
    schema = json_schema()
    sections = [schema, *(one for one in schema["$defs"].values() if "properties" in one)]
    for section in sections:
        for key, described in section["properties"].items():
            about = described if "description" in described else _target(schema, described)
            assert about.get("description"), f"{section['title']}.{key}"


def _target(schema, described):
    (one,) = [part for part in (described, *described.get("anyOf", ())) if "$ref" in part] or [{}]
    return schema["$defs"].get(one.get("$ref", "").rpartition("/")[2], {})
