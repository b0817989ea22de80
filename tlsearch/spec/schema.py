"""The study file as a JSON schema, for editors."""

from __future__ import annotations

from typing import Any

from tlsearch.spec.sections import StudySpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of study files, short forms and all.

    What only tlsearch can know (names of plugins, keys of a data source, hyperparameters) is left open.
    """
    schema = StudySpec.model_json_schema()
    sections = schema["$defs"]
    full = sections.pop("BackboneSpec")
    name = full["properties"]["name"]
    sections["BackboneSpec"] = {"anyOf": [{**name, "title": "Backbone"}, full]}
    ranged = sections.pop("Override")
    scalar = {"type": ["boolean", "number", "string"]}
    sections["Override"] = {
        "description": ranged.get("description", ""),
        "anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 1}, _override(ranged, scalar)],
    }
    return {"$schema": DIALECT, **schema, "title": "tlsearch study"}


def _override(ranged: dict[str, Any], scalar: dict[str, Any]) -> dict[str, Any]:
    properties = dict(ranged["properties"])
    properties["choices"] = {"type": "array", "items": scalar, "minItems": 1}
    properties["value"] = scalar
    return {**ranged, "properties": properties}
