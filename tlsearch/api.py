"""What Python callers begin with: run a study, open a database, load a model."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when they are needed: `import tlsearch` costs nothing
    from tlsearch.models.model import Model
    from tlsearch.reports.studies import Studies
    from tlsearch.search.progress import Observer
    from tlsearch.search.result import StudyResult
    from tlsearch.spec import StudySpec


def run(
    study: StudySpec | Mapping[str, Any] | str | Path,
    *,
    db: str = "sqlite:///tlsearch.db",
    artifacts: str | Path = "tlsearch-artifacts",
    preset: str | None = None,
    observe: Observer | None = None,
) -> StudyResult:
    """Run a study, or go on with it where it was left.

    Args:
        study: a study file's path, its content as a mapping, or a `StudySpec`; or the path of a folder of
            class folders or of a table, whose study file is written into the working directory.
        db: URL of the study database; made if it isn't there.
        artifacts: where weights and models go: a folder, or a URL such as s3://BUCKET/PREFIX.
        preset: of a new study of a folder or table: quick, good (the default) or best.
        observe: called with a `tlsearch.search.progress.Snapshot` whenever something happened; without it,
            a notebook shows the progress, and elsewhere what the data gives to worry about becomes a Python
            warning.

    Raises:
        tlsearch.errors.InputError: something is wrong with the study, found before anything was written.
        tlsearch.errors.WorkError: the search has no result.
    """
    began = time.time()
    from tlsearch import spec
    from tlsearch.counts import kind_of
    from tlsearch.errors import SpecError
    from tlsearch.search import from_data
    from tlsearch.search import study as studies
    from tlsearch.search.progress import warn

    if isinstance(study, str | Path):
        path = Path(study).expanduser()
        if from_data.is_data(path):
            path = from_data.study_file(path, preset=preset).path
        parsed = spec.load(path)
    elif isinstance(study, Mapping):
        parsed = spec.parse(study)
    elif isinstance(study, spec.StudySpec):
        parsed = study
    else:
        raise SpecError(f"A study is a file's path, a mapping or a StudySpec, not {kind_of(study)}.")
    if observe is None:
        observe = _notebook_view() or warn
    return studies.run(parsed, database=db, artifacts=artifacts, observe=observe, began=began)


def _notebook_view() -> Observer | None:
    if "ipykernel" not in sys.modules:
        return None
    from tlsearch.search.notebook_view import NotebookView, in_notebook

    return NotebookView() if in_notebook() else None


def open(db: str = "sqlite:///tlsearch.db") -> Studies:
    """A study database, to be asked.

    Raises:
        tlsearch.errors.DatabaseError: it isn't there, or isn't one.
    """
    from tlsearch.reports.studies import Studies

    return Studies(db)


def load(bundle: str | Path) -> Model:
    """A model that predicts, from its folder or URL.

    Raises:
        tlsearch.errors.BundleError: it isn't there, or isn't what was written.
    """
    from tlsearch.models import bundle as bundles

    return bundles.load(bundle)
