"""The study database as an Optuna storage that can only be read.

Optuna's plots, its importance measures and optuna-dashboard take any `BaseStorage`; this one shows them what
our database holds at the moment, without a copy and without a lock that a running search would notice.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from tlsearch.database.store import Store
from tlsearch.errors import InputError, UnknownNameError
from tlsearch.records import StudyRecord
from tlsearch.reports.optuna_trials import frozen_trials

FRESH_SECONDS = 1.0
"""How long an answer is good: a plot asks many times, a search writes a few times a second."""
TRIALS = 10_000_000
"""Trial ids of a study begin at its own id times this; JavaScript keeps numbers up to 2^53 apart."""
METRIC_NAMES = "study:metric_names"
"""Where Optuna looks for what the axes are called."""


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    trials: list[FrozenTrial]


class OptunaView(BaseStorage):
    """Studies and trials of a study database, read anew when they are asked for.

    It travels between processes by its URL. Whatever would write is an `InputError`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._open()

    def _open(self) -> None:
        self._store = Store.open(self.url)
        self._lock = threading.Lock()
        self._seen: dict[int, _Seen] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.url = state["url"]
        self._open()

    def close(self) -> None:
        """Let go of the database."""
        self._store.close()

    # Studies

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies, oldest first."""
        ids = self._store.study_ids()
        return [
            FrozenStudy(
                study_name=record.name,
                direction=None,
                directions=[_direction(record)],
                user_attrs=self._attributes(record),
                system_attrs={METRIC_NAMES: [record.metric]},
                study_id=ids[record.name],
            )
            for record in self._store.studies()
            if record.name in ids  # it may have been made, or deleted, between the two questions
        ]

    def get_study_id_from_name(self, study_name: str) -> int:
        """The id; KeyError if there is no such study."""
        return self._store.study_ids()[study_name]

    def get_study_name_from_id(self, study_id: int) -> str:
        """The name; KeyError if there is no such study."""
        for name, number in self._store.study_ids().items():
            if number == study_id:
                return name
        raise KeyError(f"There is no study with the id {study_id}.")

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The one direction, in a list."""
        return [_direction(self._record(study_id))]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """What we know of the study besides."""
        return self._attributes(self._record(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """The metric's name."""
        return {METRIC_NAMES: [self._record(study_id).metric]}

    def _record(self, study_id: int) -> StudyRecord:
        try:
            return self._store.study(self.get_study_name_from_id(study_id))
        except UnknownNameError as error:
            raise KeyError(error.message) from None

    def _attributes(self, record: StudyRecord) -> dict[str, Any]:
        model = self._store.model(record.name)
        return {
            "state": f"{record.state.value}: {record.reason}" if record.reason else record.state.value,
            "search seconds": round(record.seconds, 1),
            "data": record.fingerprint,
            **({"winner": f"trial {model.trial}", "model": model.uri} if model is not None else {}),
        }

    # Trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Search trials by number."""
        trials = self._trials(study_id)
        chosen = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial; KeyError if there is none of that id."""
        for trial in self._trials(trial_id // TRIALS):
            if trial._trial_id == trial_id:
                return copy.deepcopy(trial)
        raise KeyError(f"There is no trial with the id {trial_id}.")

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id; numbers have gaps where finalists were repeated."""
        for trial in self._trials(study_id):
            if trial.number == trial_number:
                return trial._trial_id
        raise KeyError(f"There is no trial {trial_number} in the study with the id {study_id}.")

    def _trials(self, study_id: int) -> list[FrozenTrial]:
        with self._lock:  # a dashboard asks in many threads at once; one of them reads
            seen = self._seen.get(study_id)
            now = time.monotonic()
            if seen is None or now - seen.at > FRESH_SECONDS:
                record = self._record(study_id)
                trials = frozen_trials(
                    self._store.trials(record.name),
                    self._store.curves(record.name),
                    overrides=record.spec.get("space", {}),
                    first_id=study_id * TRIALS,
                )
                seen = self._seen[study_id] = _Seen(now, trials)
        return seen.trials

    # All that would write

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Refused."""
        _refuse()

    def delete_study(self, study_id: int) -> None:
        """Refused."""
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Refused."""
        _refuse()

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Refused."""
        _refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Refused."""
        _refuse()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Refused."""
        _refuse()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Refused."""
        _refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Refused."""
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Refused."""
        _refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Refused."""
        _refuse()


def to_optuna(url: str, study: str) -> optuna.Study:
    """A study of our database for Optuna's plots and measures; its trials are those of the moment.

    Raises:
        UnknownNameError: there is no such study.
    """
    view = OptunaView(url)
    view._store.study(study)
    return optuna.load_study(study_name=study, storage=view, sampler=optuna.samplers.RandomSampler())


def export(url: str, study: str, to: str) -> int:
    """Copy a study into Optuna's own database; answers how many trials were copied.

    Args:
        url: of our database.
        study: its name in both.
        to: URL of Optuna's database; made if it isn't there.

    Raises:
        InputError: it can't be written, or has a study of that name.
        UnknownNameError: there is no such study here.
    """
    source = to_optuna(url, study)
    if to == url:
        raise InputError(
            f"{to} is the study database itself; Optuna's tables need another one.",
            hint="Example: --to sqlite:///optuna.db",
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(to)
        target = optuna.create_study(storage=storage, study_name=study, directions=source.directions)
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(
            f'{to} has a study "{study}" already.',
            hint="Name another database with --to, or delete that study with `optuna delete-study`.",
        ) from None
    except Exception as error:  # of the URL, the driver, the server, the file: all are the user's to mend
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"Can't write to {to}: {first}") from error
    for key, value in source.user_attrs.items():
        target.set_user_attr(key, value)
    storage.set_study_system_attr(target._study_id, METRIC_NAMES, source.metric_names)
    trials = source.get_trials(deepcopy=False, states=_ended())
    target.add_trials(_named(trials))
    storage.remove_session()
    return len(trials)


def _ended() -> tuple[TrialState, ...]:
    return tuple(state for state in TrialState if state.is_finished())


def _named(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that tell the number that they have here: Optuna counts anew."""
    copies = [copy.deepcopy(trial) for trial in trials]
    for trial in copies:
        trial.user_attrs["trial"] = trial.number
    return copies


def _direction(record: StudyRecord) -> StudyDirection:
    return StudyDirection.MINIMIZE if record.direction == "minimize" else StudyDirection.MAXIMIZE


def _refuse() -> NoReturn:
    raise InputError(
        "A study can't be changed through Optuna: only its own search writes to it.",
        hint="`tlsearch db export-optuna STUDY --to URL` makes a copy that you can change.",
    )
