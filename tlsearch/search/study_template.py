"""A study file for data that somebody has: looked at, measured, written with reasons beside the values."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlsearch import names, registry
from tlsearch.contracts.dataset import SPLITS
from tlsearch.counts import plural
from tlsearch.errors import DataError, InputError
from tlsearch.names import printable
from tlsearch.search import picture_shapes
from tlsearch.search.table_columns import by_content, of_dates
from tlsearch.spec import DataSpec, parse
from tlsearch.spec.presets import Preset
from tlsearch.tables import flag_columns, meant, names_apart, read_table
from tlsearch.training import item_groups, sources
from tlsearch.training.listed import Listed
from tlsearch.training.splits import written_alike
from tlsearch.yaml_text import write_yaml

PREFERRED = ("efficientnet_lite/lite0", "timm/resnet18.a1_in1k", "torchvision/resnet18")
"""Backbones to begin with, the first whose family is installed; lite0 needs no hub."""
GENERAL = ("folder", "table")
"""Sources of what any task may learn; others are for one."""
SMALL = 400
"""Below, a share of 0.15 is too few items to tell models apart."""
FINER = 1.5
"""Times the image size that pictures have where it is worth a word what is lost."""
TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A study file's text, and what it rests on.

    ``about`` says how many items there are of how many kinds, such as classes; ``counts`` are those of each.
    """

    study: str
    text: str
    about: str
    items: int
    counts: dict[str, int]
    splits: dict[str, int]
    pixels: int | None
    resize: str | None
    task: str
    metric: str
    broken: tuple[str, ...]
    notes: tuple[str, ...] = ()


def propose(
    data: Path,
    *,
    name: str | None,
    beside: Path,
    preset: Preset,
    columns: Mapping[str, Any] | None = None,
    corrected: Path | None = None,
) -> Proposal:
    """Look at a folder of class folders, or at a table, and write a study file for it.

    Args:
        data: the folder, of class folders or with one table that lists its images; or the table.
        name: of the study; the data's own by default.
        beside: folder of the study file, which paths in it are relative to.
        preset: whose keys the study gets.
        columns: column options of a table that are to be as they are here, such as ``label_column``.
        corrected: a table of corrected labels.

    Raises:
        InputError: a folder was given columns.
        DataError: there is nothing to search on; the message says what and where.
    """
    study = study_name(data, name)
    section, guessed = _section(data_of(data), beside=beside, columns=columns or {}, corrected=corrected)
    listed, task, why = _listed(study, section, beside, guessed)
    samples, strata = listed.samples, listed.strata
    counts = Counter(strata.names[kind] for kinds in strata.of for kind in kinds)
    if strata.required and samples.splits is None and max(counts.values(), default=0) < 2:
        raise DataError(
            f"{data}: each {strata.one} has one item, such as {printable(next(iter(counts)))!r}",
            hint="Names must occur several times; `task: regression` learns amounts, as plain numbers.",
        )
    heads = picture_shapes.heads(samples.items)
    shapes = picture_shapes.shapes(heads)
    pixels = shapes.pixels
    resize = shapes.resize(whole=listed.task.whole) if listed.task.resize is None else None
    made_of = picture_shapes.pixels(samples.names, heads)
    groups = item_groups.suggested(samples, strata.of)
    size = picture_shapes.image_size(pixels, len(samples.items), seconds=preset.epoch_seconds)
    metric, reason = listed.task.advised(counts)
    kinds = len(strata.needed) or len(counts)  # to have no label is none
    about = f"{plural(len(samples.items), 'item')} of {plural(kinds, strata.one, strata.many)}"
    text = _text(
        study=study,
        section=section,
        about=about,
        items=len(samples.items),
        task=f"task: {task}   # {why}" if why else "",
        reason=reason,
        pixels=pixels,
        size=size,
        resize=resize,
        made_of=made_of,
        groups=groups,
        metric=metric,
        splits=samples.splits,
        timed=samples.times is not None,
        preset=preset,
    )
    return Proposal(
        study=study,
        text=text,
        about=about,
        items=len(samples.items),
        counts=dict(counts),
        splits=dict(Counter(samples.splits or ())),
        pixels=pixels,
        resize=resize[0] if resize is not None else None,
        task=task,
        metric=metric,
        broken=samples.broken,
        notes=(*guessed, *samples.notes, *written_alike(strata), *_doubted(groups), *_refused(listed)),
    )


def _listed(study: str, section: dict[str, Any], beside: Path, told: list[str]) -> tuple[Listed, str, str]:
    """The items of a data section, what is learned of them, and why that.

    Dates by which a class would be left out of a split go from the section, and ``told`` says so.
    """

    def parsed() -> DataSpec:
        return parse({"study": study, "data": section, "backbones": [PREFERRED[0]]}, folder=beside).data

    threads = max(1, len(os.sched_getaffinity(0)))
    task, why = registry.dataset(section["source"]).task, ""
    if section["source"] in GENERAL:
        task, why = _task(sources.raw_targets(parsed()), task)
    listed = sources.listing(parsed(), task=task, threads=threads)
    if (column := section.get("time_column")) and (lacking := _lacking(listed)):
        del section["time_column"]
        told[-1] = f'The dates in column "{printable(column)}" don\'t split the items: {lacking}.'
        listed = sources.listing(parsed(), task=task, threads=threads)
    return listed, task, why


def _lacking(listed: Listed) -> str:
    """Which kind of items a split by time leaves out of a split; empty where it leaves none out."""
    strata = listed.strata
    for name in SPLITS:
        places = [at for at, split in enumerate(listed.samples.splits or ()) if split == name]
        held = {kind for at in places for kind in strata.of[at]}
        if lacking := sorted(set(range(len(strata.names))) - held if strata.required else ()):
            return f'the {strata.one} "{printable(strata.names[lacking[0]])}" would not stand in {name}'
    return ""


def _section(
    data: Path, *, beside: Path, columns: Mapping[str, Any], corrected: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """The study file's section on the data, and sentences on what of it was guessed."""

    def relative(path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), beside.resolve())).as_posix()

    source = _own_source(data) or ("folder" if data.is_dir() else "table")
    section: dict[str, Any] = {"source": source, "path": relative(data)}
    guessed: list[str] = []
    if source == "table":
        named, guessed = _columns(data, columns)
        section |= named
    elif columns:
        raise InputError(f"{data} is a folder, which has no columns: leave {', '.join(columns)} out.")
    if corrected is not None:
        section["corrected"] = relative(corrected)
    return section, guessed


def _text(
    *,
    study: str,
    section: dict[str, Any],
    about: str,
    items: int,
    task: str,
    reason: str,
    pixels: int | None,
    size: int | None,
    resize: tuple[str, str] | None,
    made_of: Mapping[str, tuple[int, str]],
    groups: item_groups.Series | None,
    metric: str,
    splits: Sequence[str] | None,
    timed: bool,
    preset: Preset,
) -> str:
    data = textwrap.indent(write_yaml(section), "  ").splitlines()
    if size is not None:
        small = pixels is not None and size >= pixels
        why = "small images are enlarged, which helps" if small else "quick on this machine"
        finer = pixels is not None and pixels >= FINER * size
        rest = f"pictures have {pixels}: more show finer detail" if finer else "the backbone's own is larger"
        data.append(f"  image_size: {size}                 # {why}; {rest}")
    if resize is not None:
        data.append(f"  resize: {resize[0]}".ljust(34) + f"# {resize[1]}")
    for key, (value, why) in made_of.items():
        data.append(f"  {key}: {value}".ljust(34) + f"# {why}")
    if groups is not None and not groups.doubt:
        why = f"{groups.told}: no split cuts one in two"
        data.append(f"  {_groups_line(groups)}".ljust(34) + f" # {why}")
    share = 0.2 if items < SMALL else 0.15
    if timed or splits is None:
        how = "by time: the newest are test" if timed else "by content; copies never stand in two parts"
        data.append(f"  split: {{val: {share}, test: {share}}}     # {how}")
    else:
        missing = " and ".join(name for name in ("val", "test") if name not in splits)
        cut = f"; {missing} is cut from train" if missing else ""
        data.append(f"  # The data brings its own splits{cut}.")
    return "\n".join(
        [
            f"# {printable(about)}",
            write_yaml({"study": study}).rstrip(),
            *([task] if task else []),
            "data:",
            *data,
            "backbones:                       # `tlsearch backbones` lists more",
            f"  - {_backbone()}",
            f"objective: {{metric: {metric}}}   # {printable(reason)}",
            *preset.lines(),
            "seed: 0",
            "",
        ]
    )


def _groups_line(groups: item_groups.Series) -> str:
    return write_yaml({"groups": groups.how}).rstrip()


def _refused(listed: Listed) -> list[str]:
    """Why a search of such items would be refused, for whoever writes a file to change it first."""
    try:
        listed.split(seed=0)
    except DataError as error:
        return [f"this can't be searched as it is: {error.message}. {error.hint or ''}".rstrip()]
    return []


def _doubted(groups: item_groups.Series | None) -> list[str]:
    """What is said of series that aren't proposed."""
    if groups is None or not groups.doubt:
        return []
    return [
        f"{groups.told[0].upper()}{groups.told[1:]}, {groups.doubt}: splits don't heed them. If items of a "
        "series show the same, such as shots of one plant, scores come out too good; this line in the data "
        f"section keeps each series in one split: `{_groups_line(groups)}`."
    ]


def _own_source(data: Path) -> str | None:
    """The installed source that what is at a path is laid out for; None for the general ones."""
    for name in registry.installed(registry.DATASETS):
        sound = name not in GENERAL and not registry.problem(registry.DATASETS, name)
        if sound and registry.dataset(name).suits(data):
            return name
    return None


def _task(targets: Sequence[Any], own: str) -> tuple[str, str]:
    """The installed task that raw targets suit best, and why; of equal claims the data source's own."""
    claims = {
        name: registry.task(name).claim(targets)
        for name in registry.installed(registry.TASKS)
        if not registry.problem(registry.TASKS, name)
    }
    best = max(claims, key=lambda name: (claims[name][0], name == own))
    return (best, claims[best][1]) if claims[best][0] > 0 else (own, "")


def data_of(place: Path) -> Path:
    """The table of a folder that holds images and one table, but no class folders; else the place itself."""
    if not place.is_dir():
        return place
    entries = list(place.iterdir())
    tables = [path for path in entries if path.suffix.lower() in TABLES and path.is_file()]
    folders = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    return tables[0] if len(tables) == 1 and len(folders) < 2 else place


def _columns(table: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Column options of a table that doesn't use the default names, where its own are plain enough.

    With them come sentences on those that were taken for what is in them.

    Where no column is the label by its name, several columns of 0 and 1 are labels. A label column whose
    cells hold several names gets their separator.
    """
    read = read_table(table)
    found: dict[str, Any] = {}
    for kind in ("image", "label"):
        own = meant(kind, read.columns, table) if f"{kind}_column" not in given else None
        if own not in (None, kind):
            found[f"{kind}_column"] = own
    if "label_column" not in {*found, *given} and "label" not in read.columns:
        flags = flag_columns(read)
        found |= {"label_column": flags} if len(flags) > 1 else {}
    found |= given
    guessed, told = by_content(read, table, found)
    found |= guessed
    label = found.get("label_column", "label")
    if "label_separator" not in found and isinstance(label, str) and label in read.columns:
        mark = names_apart([str(cell) for cell in read.frame[label]])
        found |= {"label_separator": mark} if mark else {}
    if "time_column" not in found and (dated := of_dates(read, found)):
        found["time_column"] = dated[0]
        told = [*told, dated[1]]
    return found, told


def study_name(data: Path, given: str | None = None) -> str:
    """The name of a study of some data: what it was ``given``, or one like the data's own.

    Raises:
        InputError: no study can be called so.
    """
    if given is not None:
        name = names.composed(given)
        if not names.is_study_name(name):
            hint = f"--name {near} is possible." if (near := names.study_name(given)) else None
            raise InputError(
                f'The name of a study {names.STUDY_NAMING}: "{printable(given)}" is none.', hint=hint
            )
        return name
    named = Path(os.path.abspath(data))  # as it was given: a link goes by its own name
    stem = named.stem if data.is_file() else named.name
    return names.study_name(stem) or "study"


def _backbone() -> str:
    families = registry.installed(registry.BACKBONES)
    for name in PREFERRED:
        if name.partition("/")[0] in families:
            return name
    raise DataError("No backbone is installed.", hint="pip install tlsearch-efficientnet-lite")
