"""What an audit of labels found: a page of pictures, a table to correct, and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlsearch.contracts.images import ImageInput
from tlsearch.contracts.inputs import InputSpec
from tlsearch.counts import plural
from tlsearch.errors import DataError, InputError
from tlsearch.files import refuse_unwritable, write_durably
from tlsearch.reports import templates
from tlsearch.reports.examination import thumbnail
from tlsearch.search.label_audit import LabelAudit
from tlsearch.training.corrections import as_csv

MOST = 200
"""Pictures on a page."""


def refuse_existing(page: Path) -> Path:
    """The table beside a page; neither may be there, as somebody may have corrected labels in it.

    Raises:
        InputError: one is there, or they can't be written.
    """
    refuse_unwritable(page)
    table = page.with_suffix(".csv")
    for path in (page, table):
        if path.exists():
            raise InputError(
                f"{path} already exists, and may hold labels that somebody corrected.",
                hint="Name another page with --output.",
            )
    return table


def write(found: LabelAudit, *, study: str, page: Path, table: Path) -> None:
    """Write both.

    Raises:
        InputError: they can't be written there.
    """
    rows = [
        (one.name, one.label, one.suggested, f"{one.probability:.4f}", one.split, "")
        for one in found.doubtful
    ]
    texts = {table: as_csv(rows), page: rendered(found, study=study, table=table)}
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, lambda draft, text=text: draft.write_text(text, encoding="utf-8"))  # type: ignore[misc]
        except OSError as error:
            raise InputError(f"Can't write {path}: {error.strerror or error}") from None


def rendered(found: LabelAudit, *, study: str, table: Path) -> str:
    """The page."""
    return (
        templates.environment()
        .get_template("labels.html.j2")
        .render(
            study=study,
            found=found,
            csv=table.name,
            sentences=sentences(found),
            pictures=[(one, _picture(one.item, found.inputs)) for one in found.doubtful[:MOST]],
            recalls=sorted(found.recalls.items(), key=lambda pair: pair[1][0]),
        )
    )


def sentences(found: LabelAudit) -> Sequence[str]:
    """What more labels would give, and which class is recognized worst."""
    told = []
    curve = found.curve
    if curve is not None:
        measured = ", ".join(
            f"{mean:.3f} with {size}" for size, mean in zip(curve.sizes, curve.means, strict=True)
        )
        told.append(
            f"{_plain(curve.metric).capitalize()} of heads by the number of training items: {measured}."
        )
        for share in (0.25, 1.0):
            more = max(1, round(share * curve.items))
            gain, low, high = curve.gain(more)
            between = f"{100 * low:+.1f} to {100 * high:+.1f} in 90 of 100 cases"
            told.append(
                f"{plural(more, 'more label')}: {100 * gain:+.1f} points ({between}), by a power law."
            )
    worst, (recall, items) = min(found.recalls.items(), key=lambda pair: pair[1][0])
    told.append(f'"{worst}" is recognized worst: {recall:.0%} of its {plural(items, "item")}.')
    return told


def _plain(metric: str) -> str:
    return metric.replace("_", " ")


def _picture(item: object, inputs: InputSpec) -> str:
    if not isinstance(inputs, ImageInput):
        return ""
    try:
        return thumbnail(item, inputs)
    except DataError:  # broken
        return ""
