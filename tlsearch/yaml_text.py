"""YAML from a user's hand: plain data with line numbers, and none of what makes YAML dangerous."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from tlsearch.errors import SpecError

MAX_DEPTH = 50


def read_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """A mapping, and the line number of each of its dotted paths.

    Raises:
        SpecError: it isn't YAML, isn't a mapping, or uses what a study file has no need of: aliases, object
            tags, doubled keys, deep nesting. The message says where; ``name`` is what it calls the text.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_DEPTH:  # the parser's time grows with the square of it
                line = event.start_mark.line + 1
                raise SpecError(f"{name}:{line}: is nested more than {MAX_DEPTH} levels deep.")
            if isinstance(event, AliasEvent):
                line = event.start_mark.line + 1
                raise SpecError(f"{name}:{line}: aliases (*{event.anchor}) are not taken in study files.")
        root = YAML(typ="safe", pure=True).compose(text)
        data = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"{place}: not a YAML file that can be read: {problem}.") from None
    except SpecError:
        raise
    except Exception as error:  # noqa: BLE001 - values that don't fit their tags raise almost anything
        raise SpecError(f"{name}: not a YAML file that can be read: {error}.") from None
    if not isinstance(data, dict):
        raise SpecError(f"{name}: a study file is a mapping with keys such as study, data, backbones.")
    return data, dict(_line_numbers(root))


def write_yaml(data: Mapping[str, Any]) -> str:
    """A mapping as lines of YAML, quoted wherever a value would be read as something else."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    writer = YAML()
    writer.width = 1_000_000
    writer.dump(dict(data), text)
    return text.getvalue()


def _line_numbers(node: Any, path: str = "") -> Iterator[tuple[str, int]]:
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    if isinstance(node, MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}" if path else str(key.value)
            yield inner, key.start_mark.line + 1
            yield from _line_numbers(value, inner)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            inner = f"{path}.{index}"
            yield inner, value.start_mark.line + 1
            yield from _line_numbers(value, inner)
