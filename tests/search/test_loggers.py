"""What loggers were told, as the tools' own readers find it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_bench
import tiny_search

from tlsearch.errors import InputError
from tlsearch.records import EpochResult, Outcome, TrialState
from tlsearch.search.loggers import TrialLoggers, open_journal
from tlsearch.search.registration import FREE_TO_CHANGE
from tlsearch.spec import parse


class Listener:
    """Keeps what it hears; its place says when it fails."""

    def __init__(self, fails_at: int = 0) -> None:
        self.heard: list[str] = []
        self.fails_at = fails_at

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        if len(self.heard) == self.fails_at:
            raise OSError("the disk is full\nand more")

    def begin(self, point) -> None:
        self._hear(f"begin {point.number}")

    def tell(self, point, result) -> None:
        self._hear(f"{point.number} epoch {result.epoch}{' ended' if result.outcome else ''}")

    def close(self) -> None:
        self._hear("close")


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A search of three trials that told TensorBoard and MLflow."""
    folder = tmp_path_factory.mktemp("logged")
    places = {"tensorboard": str(folder / "boards"), "mlflow": f"sqlite:///{folder}/mlflow.db"}
    spec = tiny_bench.study(loggers=places, data={"noise": 90.0})
    tried = [
        tiny_bench.point("linear_probe", number=0),
        tiny_bench.point("fine_tune", number=1, freeze_depth=0.5),
        tiny_bench.point("tiny_raising", number=2),
    ]
    with open_journal(spec) as journal:
        searched = tiny_search.search(folder, spec=spec, tried=tried, journal=journal, promoted=False)
    assert journal.note() == ""
    return searched


def test_tensorboard_reads_every_trial(logged):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with logged.store as store:
        curve, trials = store.epochs(logged.name, 1), store.trials(logged.name)
    boards = Path(logged.folder) / "boards" / logged.name
    assert sorted(place.name for place in boards.iterdir()) == [f"trial-0000{n}" for n in range(3)]
    read = EventAccumulator(str(boards / "trial-00001"))
    read.Reload()
    values = {event.step: event.value for event in read.Scalars("value")}
    assert values == pytest.approx({epoch.epoch: epoch.value for epoch in curve} | {3: trials[1].value})
    losses = [event.value for event in read.Scalars("train_loss")]
    assert losses == pytest.approx([epoch.metrics["train_loss"] for epoch in curve])
    assert "_hparams_/session_start_info" in read.PluginTagToContent("hparams")
    failed = EventAccumulator(str(boards / "trial-00002"))
    failed.Reload()
    (text,) = failed.Tensors("ended/text_summary")
    assert b"the loss fell over" in text.tensor_proto.string_val[0]


def test_mlflow_reads_every_trial(logged):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{logged.folder}/mlflow.db")
    experiment = client.get_experiment_by_name(logged.name)
    runs = {run.data.tags["tlsearch.trial"]: run for run in client.search_runs([experiment.experiment_id])}
    with logged.store as store:
        trials = {str(trial.number): trial for trial in store.trials(logged.name)}
        curve = store.epochs(logged.name, 1)
    assert set(runs) == set(trials)
    for number, run in runs.items():
        trial = trials[number]
        params = {"strategy": trial.strategy, "backbone": trial.backbone, "seed": trial.seed, **trial.params}
        assert run.data.params == {name: str(value) for name, value in params.items()}
        assert run.data.tags["tlsearch.state"] == trial.state.value
        assert run.data.metrics.get("value") == trial.value
    assert [run.info.status for _, run in sorted(runs.items())] == ["FINISHED", "FINISHED", "FAILED"]
    history = client.get_metric_history(runs["1"].info.run_id, "train_loss")
    assert [point.value for point in history] == [epoch.metrics["train_loss"] for epoch in curve]


def test_a_tool_that_fails_is_left_out_with_a_note_and_the_others_go_on():
    bad, good = Listener(fails_at=2), Listener()
    point = tiny_bench.point(number=7)
    with TrialLoggers({"bad": bad, "good": good}) as journal:
        journal.begin([point])
        journal.tell(EpochResult(7, 1, 1, 2, 0.5))
        journal.tell(EpochResult(7, 1, 2, 2, 0.6, outcome=Outcome(TrialState.COMPLETE, "all epochs", 0.6)))
        journal.tell(EpochResult(7, 1, 3, 2, 0.6))  # of a trial that has ended
    assert good.heard == ["begin 7", "7 epoch 1", "7 epoch 2 ended", "close"]
    assert bad.heard == good.heard[:2]


def test_notes_reach_the_observer():
    seen = []
    journal = TrialLoggers({"bad": Listener(fails_at=1)}, seen.append)
    journal.begin([tiny_bench.point()])
    journal.close()
    assert [snapshot.note for snapshot in seen] == ["logging to bad stopped: the disk is full"]


def test_what_cannot_be_written_to_is_told_before_the_search(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"loggers.tensorboard: can't write to .*file"):
        open_journal(tiny_bench.study(loggers={"tensorboard": str(tmp_path / "file")}))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"loggers.wandb: the package wandb isn't installed") as caught:
        open_journal(tiny_bench.study(loggers={"wandb": "project"}))
    assert caught.value.hint == "pip install wandb"


def test_without_loggers_nothing_is_started_or_told():
    with open_journal(tiny_bench.study()) as journal:
        journal.begin([tiny_bench.point()])
        assert journal._waiting.empty()
        assert not journal._thread.is_alive()


def test_loggers_may_change_when_a_study_goes_on(tmp_path):
    assert "loggers" in FREE_TO_CHANGE
    document = {"study": "s", "data": {"source": "digits"}, "backbones": ["a/b"]}
    spec = parse({**document, "loggers": {"tensorboard": "boards"}}, folder=tmp_path)
    assert spec.loggers.tensorboard == str(tmp_path / "boards")
    assert parse(document).to_json()["loggers"] == {}


def log_records(content: bytes) -> Iterator[bytes]:
    """Records of a log of blocks as LevelDB writes it, which is how W&B keeps what it will send later."""
    at, parts = 7, []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no room for a header at the end of a block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_wandb_keeps_every_trial_that_was_kept_here(tmp_path, monkeypatch):
    # Where the Makefile puts it.
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(sys.prefix) / "wandb")])
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    points = [tiny_bench.point(number=number) for number in range(2)]
    with open_journal(tiny_bench.study(loggers={"wandb": "project"})) as journal:
        journal.begin(points)  # both are open at once, as trials are
        for number, value in ((0, 0.25), (1, 0.75)):
            outcome = Outcome(TrialState.COMPLETE, "all epochs", value)
            journal.tell(EpochResult(number, 1, 1, 1, value, {"train_loss": 1.0}, outcome=outcome))
    wandb.teardown()
    found = {}
    for file in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        name, values = "", []
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            name = record.run.display_name or name
            values += [
                float(item.value_json)
                for item in record.history.item
                if "value" in (item.key, *item.nested_key)
            ]
        found[name] = values
    assert found == {"tiny trial 0": [0.25], "tiny trial 1": [0.75]}
