"""From what somebody hands in, a folder, a table or a study file, to the study file that is searched."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlsearch import spec
from tlsearch.errors import InputError, did_you_mean
from tlsearch.files import refuse_special
from tlsearch.search.study_template import Proposal, data_of, propose, study_name
from tlsearch.spec import presets
from tlsearch.yaml_text import read_yaml

STUDY_FILES = (".yaml", ".yml", ".json", "")
"""Endings of files that are read as study files; any other file is a table."""
OF_TABLES = ("root", "image_column", "label_column", "label_separator", "split_column", "group_column")
"""Options of a table that say how it is to be listed."""
ELSEWHERE = "Name another with --output, or overwrite it with --force."
"""What `init` can do where a file is there."""


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study file for data.

    Attributes:
        path: of the file.
        proposal: what was written into it; None where it was there.
    """

    path: Path
    proposal: Proposal | None = None


def refuse_no_file(target: Path) -> None:
    """Refuse what is neither file nor folder: a FIFO would block, a device may never end.

    Raises:
        InputError: it is one of these.
    """
    if not os.path.exists(target):
        return
    try:
        refuse_special(target)
    except OSError as error:
        raise InputError(f"Can't read {target}: {error.strerror}.", hint="Save it as a file.") from None


def is_data(target: Path) -> bool:
    """Whether a path is of data, a folder or a table, and not of a study file.

    Raises:
        InputError: there is nothing at the path, and its name is no study file's.
    """
    suffix = target.suffix.lower()
    if os.path.isdir(target):  # False too for names that no file can have
        return True
    if suffix in STUDY_FILES and (suffix or os.path.isfile(target)):
        return False
    if os.path.isfile(target):
        return True
    refuse_no_file(target)
    raise InputError(
        f"There is nothing at {target}.{_near(target)}",
        hint="Name a folder of class folders, a table, or a study file.",
    )


def _near(target: Path) -> str:
    folder = target.parent
    names = [path.name for path in folder.iterdir()] if os.path.isdir(folder) else []
    guess = did_you_mean(target.name, names)
    return f" {guess}" if guess else ""


def study_file(
    data: Path,
    *,
    preset: str | None = None,
    name: str | None = None,
    columns: Mapping[str, Any] | None = None,
    folder: Path = Path(),
    overrides: Mapping[str, Any] | None = None,
    check: Callable[[spec.StudySpec], object] = lambda study: None,
) -> StudyFile:
    """The study file of a folder or table, written if it isn't there.

    Args:
        data: the folder or table.
        preset: quick, good or best; good for a new file where it is None.
        name: of the study; the data's own by default.
        columns: options of a table, such as ``label_column``.
        folder: where the file is, as ``NAME.yaml``.
        overrides: dotted keys and values that are to replace those of a new file. They aren't written;
            smaller images make up for fewer ``budget.minutes``.
        check: refuses a new study, by its error, before anything is written.

    Raises:
        InputError: a file of that name is there for other data, with other columns or with other values than
            the preset's; or it can't be written.
        SpecError: a new study can't have these values; then nothing is written.
        DataError: there is nothing to search on.
    """
    path = known_file(data, preset=preset, name=name, columns=columns, folder=folder)
    if path is not None:
        return StudyFile(path)
    proposal = _proposed(data, preset, name, columns, overrides, folder)
    check(_parsed(proposal, overrides))
    path = folder / f"{proposal.study}.yaml"
    write(path, proposal.text, hint="Another run begins with it now: the same command again goes on with it.")
    return StudyFile(path, proposal)


def known_file(
    data: Path,
    *,
    preset: str | None = None,
    name: str | None = None,
    columns: Mapping[str, Any] | None = None,
    folder: Path = Path(),
) -> Path | None:
    """The study file that is there for a folder or table; None where there is none.

    Raises:
        InputError: one is there for other data, with other columns, or with other values than the preset's;
            or no study can be called so.
        UnknownNameError: there is no such preset.
    """
    wanted = presets.preset(preset) if preset is not None else None
    path = folder / f"{study_name(data, name)}.yaml"
    if not path.exists():
        return None
    known = spec.load(path)
    other = f"{path.stem}-{preset or 2}"
    hint = f"`--name {other}` makes another study; `tlsearch run {path}` continues this one."
    if not _same(known.data.options.get("path"), data):
        searched = known.data.options.get("path", known.data.source)
        raise InputError(f"{path} already exists, for the data {searched}.", hint=hint)
    for option, column in (columns or {}).items():
        if (own := known.data.options.get(option)) != column:
            told = "none" if own is None else own if isinstance(own, str) else ", ".join(own)
            raise InputError(f"{path} is there already, and its {option} is {told}.", hint=hint)
    if wanted is not None and (differing := wanted.differences(known)):
        raise InputError(
            f"{path} already exists and differs from preset {preset}: it has {'; '.join(differing)}.",
            hint=hint,
        )
    return path


def refuse_beside(target: Path, given: Mapping[str, Any]) -> None:
    """Refuse options of a new study beside a study file, which has its own.

    Args:
        target: the study file.
        given: options as they are typed, and what was given for them.

    Raises:
        InputError: one is given.
    """
    if named := [option for option, value in given.items() if value]:
        raise InputError(
            f"{named[0]} is for a folder or table, and {target} is a study file.",
            hint="Change the file, or replace values with --set.",
        )


def study_of(
    target: Path,
    *,
    preset: str | None = None,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> spec.StudySpec:
    """The study of a folder, table or study file, without writing anything.

    Args:
        target: the folder, table or file.
        preset: as for `study_file`.
        name: as for `study_file`.
        overrides: dotted keys and values that replace the study's.
        columns: options of a table, such as ``label_column``.

    Raises:
        InputError: as for `study_file`; or columns are given for a study file, which has its own.
    """
    if not is_data(target):
        refuse_beside(
            target, {f"--{option.replace('_', '-')}": value for option, value in (columns or {}).items()}
        )
        return spec.load(target, overrides=overrides)
    path = known_file(target, preset=preset, name=name, columns=columns)
    if path is not None:
        return spec.load(path, overrides=overrides)
    return _parsed(_proposed(target, preset, name, columns, overrides, Path()), overrides)


def _proposed(
    data: Path,
    preset: str | None,
    name: str | None,
    columns: Mapping[str, Any] | None,
    overrides: Mapping[str, Any] | None,
    folder: Path,
) -> Proposal:
    minutes = (overrides or {}).get("budget.minutes")
    known = minutes if isinstance(minutes, int | float) else None  # whoever parses it says what it must be
    effort = presets.preset(preset or presets.DEFAULT).within(known)
    own = _columns(data, columns, overrides)
    return propose(data, name=name, beside=folder, preset=effort, columns=own)


def _columns(
    data: Path, columns: Mapping[str, Any] | None, overrides: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Options of a table, with those among the overrides without which it may not even be listed."""
    told = {key.removeprefix("data."): value for key, value in (overrides or {}).items()}
    wanted = told if data_of(data).is_file() else {}
    return {**(columns or {}), **{key: value for key, value in wanted.items() if key in OF_TABLES}}


def _parsed(proposal: Proposal, overrides: Mapping[str, Any] | None) -> spec.StudySpec:
    plain, _ = read_yaml(proposal.text, proposal.study)
    return spec.parse(plain, overrides=overrides, name=proposal.study)


def write(path: Path, text: str, *, over: bool = False, hint: str = ELSEWHERE) -> None:
    """Write a study file; ``hint`` is the next step where one is there.

    Raises:
        InputError: one is there, unless it is to be written ``over``; or it can't be written.
    """
    try:
        with path.open("w" if over else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} already exists.", hint=hint) from None
    except OSError as error:
        raise InputError(f"Can't write {path}: {error.strerror}.") from None


def _same(path: Any, data: Path) -> bool:
    return isinstance(path, str) and os.path.realpath(path) == os.path.realpath(data_of(data))
