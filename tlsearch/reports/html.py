"""``tlsearch report``: a study as one page that needs nothing else, neither network nor server.

What a model confuses and how fast it is comes from running it; all else is read from the database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlsearch.database.store import Store
from tlsearch.errors import TlsearchError
from tlsearch.files import refuse_unwritable, write_page
from tlsearch.records import Pixels
from tlsearch.reports import (
    comparison_figures,
    cost_figures,
    formatting,
    model_figures,
    search_figures,
    templates,
)
from tlsearch.reports.answer import answer
from tlsearch.reports.data_findings import findings
from tlsearch.reports.endings import endings
from tlsearch.reports.evidence import Evidence, gather
from tlsearch.reports.figures import Figure
from tlsearch.reports.importance import importances

if TYPE_CHECKING:
    from tlsearch.reports.examination import Examination, Look

BACKBONES = 12
"""Measured for latency at most, the best first."""
ROWS = 500
"""Trials in the table at the page's end."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Looked:
    """What running the model came to; ``why`` is the reason where there is nothing."""

    found: Examination | Look | None
    why: str
    backbones: Mapping[str, float]


def write(url: str, study: str, path: Path, *, run_model: bool = True, say: Say = lambda _: None) -> Path:
    """Write the report of a study.

    Args:
        url: of the study database.
        study: its name.
        path: of the page; a folder that isn't there is made.
        run_model: whether to run the model over the validation split and measure latencies.
        say: told what takes time.

    Raises:
        UnknownNameError: there is no such study.
        InputError: the page can't be written there.
    """
    refuse_unwritable(path)
    with Store.open(url) as store:
        evidence = gather(store, study)
    looked = (
        look(evidence, say=say)
        if run_model
        else Looked(None, "the report was made without running the model", {})
    )
    page = render(evidence, looked)
    write_page(path, page)
    return path


def look(evidence: Evidence, *, say: Say) -> Looked:
    """Run the model over the validation split, and one item through each backbone."""
    from tlsearch.reports import examination, latency

    found, why = None, ""
    if evidence.model is None:
        why = "the study has no verified model yet"
    else:
        say("looking at the model on the validation split ...")
        try:
            found = examination.examine(
                evidence.study, evidence.model, evidence.items, winner=evidence.winner
            )
        except (TlsearchError, OSError) as error:
            why = getattr(error, "message", str(error))
    leaders = sorted(
        evidence.complete, key=lambda t: (t.value or 0.0) if evidence.minimize else -(t.value or 0.0)
    )
    names = list(dict.fromkeys(trial.backbone for trial in leaders))[:BACKBONES]
    backbones = {}
    data = evidence.study.spec.get("data", {})
    size, pixels = data.get("image_size"), Pixels(data.get("channels") or 3, data.get("bits") or 8)
    for name in names:
        say(f"measuring the latency of {name} ...")
        took = latency.backbone_latency(name, image_size=size, pixels=pixels)
        if took is not None:
            backbones[name] = took
    return Looked(found, why, backbones)


def render(evidence: Evidence, looked: Looked) -> str:
    """The page."""
    from markupsafe import Markup

    environment = templates.environment()
    environment.filters.update(
        trials=formatting.trials,
        number=formatting.number,
        duration=formatting.duration,
        size=formatting.size,
        depth=formatting.depth,
    )
    environment.filters["score"] = lambda value: formatting.score(evidence.study.metric, value)
    environment.filters["interval"] = lambda found: formatting.interval(
        evidence.study.metric, found.low, found.high
    )
    found, left_out = importances(evidence)
    shown = _figures(evidence, looked, found)
    drawn = [figure.to_json() for figure in shown.values()]
    # In a script element only "<" could end it; in JSON it may be written as an escape.
    data = json.dumps(drawn, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    folder = Path(__file__).parent / "page"
    return environment.get_template("report.html.j2").render(
        e=evidence,
        study=evidence.study,
        dataset=evidence.dataset,
        looked=looked,
        figures=shown,
        left_out=left_out,
        shares=formatting.SHARES,
        answer=answer(evidence),
        endings=endings(evidence.trials),
        data_section=findings(evidence.dataset, evidence.study.audit),
        spec=_spec(evidence.study.spec),
        rows=evidence.trials[:ROWS],
        hyperparameters=_hyperparameters,
        made=datetime.now(UTC),
        css=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(_plotly()) if shown else "",
        data=Markup(data),
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source


def _figures(
    evidence: Evidence, looked: Looked, found: Mapping[str, Mapping[str, float]]
) -> dict[str, Figure]:
    drawn = [
        *of_search(evidence, found),
        cost_figures.against_size(evidence),
        cost_figures.against_latency(evidence, looked.backbones),
    ]
    return {figure.name: figure for figure in [*drawn, *_at_work(looked.found)] if figure is not None}


def of_search(evidence: Evidence, found: Mapping[str, Mapping[str, float]]) -> list[Figure | None]:
    """Figures that need the database alone; ``found`` are the importances of hyperparameters."""
    return [
        search_figures.seeds(evidence),
        search_figures.history(evidence),
        search_figures.freeze_depth(evidence),
        comparison_figures.branches(evidence),
        comparison_figures.heat_map(evidence),
        search_figures.learning_rate(evidence),
        search_figures.importance(evidence, found),
        search_figures.learning_curves(evidence),
    ]


def _at_work(found: Examination | Look | None) -> Sequence[Figure]:
    """Figures of the model at work; a task's own where it puts out no probabilities."""
    from tlsearch.reports.examination import Look

    if found is None:
        return []
    if isinstance(found, Look):
        return found.figures
    return [
        model_figures.confusion(found),
        model_figures.reliability(found),
        model_figures.risk_coverage(found),
    ]


def _hyperparameters(params: Mapping[str, object]) -> list[tuple[str, str]]:
    return [
        (name, formatting.number(value) if isinstance(value, float) else str(value))
        for name, value in sorted(params.items())
    ]


def _spec(spec: Mapping[str, Any]) -> str:
    """The study file as it was run."""
    import io

    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(json.loads(json.dumps(dict(spec))), text)
    return text.getvalue()
