"""Reading a study file: every mistake at once, each with file, line, path and what would be right."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import typing
from collections.abc import Iterable, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tlsearch.errors import SpecError, did_you_mean
from tlsearch.files import refuse_special
from tlsearch.names import printable
from tlsearch.spec.sections import DataSpec, StudySpec
from tlsearch.urls import may_hold_password, public
from tlsearch.yaml_text import read_yaml

MAX_BYTES = 100_000
TOLD = 20
"""Mistakes that are told one by one."""


def load(path: Path, *, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Read and validate a study file. Relative paths of data and weights count from the file's folder.

    Args:
        path: of the YAML file.
        overrides: dotted keys and values that replace what the file says (``{"budget.trials": 10}``).

    Raises:
        SpecError: the file can't be read or isn't a valid study; the message names every mistake.
    """
    try:
        refuse_special(path)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(other) for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = f"Study files there: {', '.join(near[:5])}" if near else None
        raise SpecError(f"There is no study file {path}.", hint=hint) from None
    except UnicodeDecodeError:
        raise SpecError(
            f"Can't read {path}: it isn't text in UTF-8.", hint="Save it as UTF-8; PowerShell's > doesn't."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise SpecError(f"Can't read {path}: {getattr(error, 'strerror', None) or error}.") from None
    if len(content) > MAX_BYTES:
        raise SpecError(f"{path} is over {MAX_BYTES:,} bytes; a study file is a page at most.")
    data, lines = read_yaml(text, str(path))
    return parse(data, overrides=overrides, name=str(path), lines=lines, folder=path.resolve().parent)


def parse(
    data: Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    name: str = "study",
    lines: Mapping[str, int] | None = None,
    folder: Path | None = None,
) -> StudySpec:
    """Validate a study given as plain data.

    Args:
        data: as a study file would hold it.
        overrides: dotted keys and values that replace those in ``data``.
        name: how errors call it.
        lines: line numbers by dotted path, for errors.
        folder: what relative paths of data and weights count from; the working directory by default.

    Raises:
        SpecError: the message names every mistake.
    """
    try:
        plain = json.loads(json.dumps(data, default=_plain))
        if not isinstance(plain, dict):
            raise SpecError(f"{name}: a study is a mapping with keys such as study, data, backbones.")
        if plain and not set(plain) & set(StudySpec.model_fields):
            known = printable(", ".join(map(str, plain))[:80])
            raise SpecError(
                f"{name} is no study file: it has {known}, and no key such as study, data, backbones.",
                hint="Of a data set name the folder.",
            )
        for key, value in json.loads(json.dumps(dict(overrides or {}), default=_plain)).items():
            _put(plain, key, value)
        _refuse_passwords(plain, name)
        _anchor(plain, folder or Path.cwd(), name)
        return StudySpec.model_validate(_tuples(plain))
    except (TypeError, RecursionError) as error:  # keys that aren't text; nested too deeply
        raise SpecError(f"{name}: not what a study file holds: {error}.") from None
    except ValidationError as error:
        mistakes = _own(error)
        problems = [_sentence(problem, name, lines or {}, overrides or {}) for problem in mistakes[:TOLD]]
        if len(mistakes) > 1:
            problems.insert(0, f"{len(mistakes):,} mistakes in {name}:")
        if len(mistakes) > TOLD:
            problems.append(f"... and {len(mistakes) - TOLD:,} more.")
        raise SpecError("\n".join(problems)) from None
    except ValueError as error:  # a number of thousands of digits
        raise SpecError(f"{name}: not what a study file holds: {error}.") from None


def _plain(value: Any) -> Any:
    """What Python callers pass beside plain data: NumPy's numbers and arrays, paths, other collections."""
    if callable(number := getattr(value, "tolist", None)):
        return number()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(value, key=str)
    if isinstance(value, Decimal | Fraction):
        return float(value)
    return list(value) if isinstance(value, Iterable) and not isinstance(value, os.PathLike) else str(value)


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    head, _, tail = key.partition(".")
    if not tail:
        data[head] = value
        return
    if data.get(head) is None:  # a section that isn't there, or is empty
        data[head] = {}
    inner = data[head]
    if not isinstance(inner, dict):
        raise SpecError(f"Can't set {key}: {head} is {_shorten(repr(inner))}, not a section.")
    if head == "space":
        # Hyperparameter names hold dots themselves: everything behind "space." is one key.
        inner[tail] = value
    else:
        _put(inner, tail, value)


def _anchor(data: dict[str, Any], folder: Path, name: str) -> None:
    """Make the relative paths of data and weights absolute, in place."""
    places: list[tuple[str, dict[str, Any], str]] = []
    for section in ("data", "source_data"):
        if isinstance(data.get(section), dict):
            places += [(f"{section}.{key}", data[section], key) for key in ("path", "root", "corrected")]
    if isinstance(data.get("backbones"), list):
        places += [
            (f"backbones.{index}.weights", backbone, "weights")
            for index, backbone in enumerate(data["backbones"])
            # "pretrained" and "random" have no ending; nor should a misspelling of these look like a path.
            if isinstance(backbone, dict) and "." in str(backbone.get("weights"))
        ]
    if isinstance(data.get("loggers"), dict):
        places.append(("loggers.tensorboard", data["loggers"], "tensorboard"))
    for path, holder, key in places:
        value = holder.get(key)
        if value == "":  # it would be the current folder
            raise SpecError(f"{name}: {path}: is empty.")
        if isinstance(value, str) and "://" not in value:  # a URL is whole as it is
            try:
                holder[key] = str(folder / Path(value).expanduser())
            except RuntimeError as error:  # ~somebody, who has no home here
                raise SpecError(f"{name}: {path}: {error} Got {_shorten(repr(value))}.") from None


def _refuse_passwords(value: Any, name: str, path: str = "") -> None:
    """Study files are stored with their studies and shown: no URL in one holds a password."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            _refuse_passwords(inner, name, f"{path}.{key}" if path else str(key))
    elif isinstance(value, str) and "://" in value and may_hold_password(value):
        raise SpecError(
            f"{name}: {path}: the URL may hold a password, which would be stored and shown with the study.",
            hint="Leave it out, and give it as its tool wants it: MLFLOW_TRACKING_USERNAME and _PASSWORD, "
            "PGPASSWORD, AWS_ACCESS_KEY_ID, ... .",
        )


def _tuples(value: Any) -> Any:
    """Lists as tuples, which is what strict frozen models take."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(inner) for inner in value)
    return value


def _own(error: ValidationError) -> list[Any]:
    """Problems, less those of lists that are too short because their items are wrong."""
    problems: list[Any] = error.errors()
    inside = {problem["loc"][:end] for problem in problems for end in range(len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in inside]


_IN_YAML = {
    **dict.fromkeys(("dict_type", "model_type", "mapping_type"), "must be a section with keys of its own"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text, in quotes where it is a number",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "too_short": "must hold at least one item",
}
"""What pydantic says in Python's words."""


def complaint(problem: Any) -> str:
    """What is wrong with a value, of which pydantic tells, and the value."""
    message = _IN_YAML.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = public(given) if isinstance(given, str) and "://" in given else given
    told = "" if isinstance(given, dict | tuple | list) else f", got {_shorten(repr(shown))}"
    return f"{message[0].lower()}{message[1:]}{told}."


def _sentence(problem: Any, name: str, lines: Mapping[str, int], overrides: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    above = [".".join(location[:end]) for end in range(len(location), 0, -1)]
    place = next((f"{name}:{lines[path_]}" for path_ in above if path_ in lines), name)
    if any(key in above or key.startswith(f"{path}.") for key in overrides):
        place = f"set in place of what {name} says"
    if problem["type"] == "extra_forbidden":
        text = f"unknown key. {did_you_mean(location[-1], _keys_at(location[:-1]))}".strip()
        if not text.endswith("?"):
            known = ", ".join(_keys_at(location[:-1]))
            text += f" Known here: {known}." if known else ""
    elif problem["type"] == "missing":
        text = "is missing."
    else:
        text = complaint(problem)
    return f"{place}: {path}: {text}" if path else f"{place}: {text}"


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def _keys_at(location: list[str]) -> list[str]:
    model: type[BaseModel] = StudySpec
    parts = iter(part for part in location if not part.isdigit())
    for part in parts:
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field is not None else None
        if field is None or inner is None:
            return []
        if typing.get_origin(field.annotation) is Mapping:
            next(parts, None)  # the mapping's own key, such as a hyperparameter's name
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def unknown_option(name: str, known: list[str]) -> str:
    """A sentence for a key in a data section that neither tlsearch nor the source knows."""
    common = [key for key in DataSpec.model_fields if key != "source"]
    close = difflib.get_close_matches(name, [*known, *common], n=1)
    if close:
        return f'unknown key. Did you mean "{close[0]}"?'
    return f"unknown key. Known here: {', '.join([*known, *common])}."
