"""What only a GPU can show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_bench import BACKBONE, bench, outcomes, point, results

from tlsearch import registry
from tlsearch.records import TrialState
from tlsearch.training.activations import Activations
from tlsearch.training.batch_source import Counts
from tlsearch.training.memory import device_room, take_share
from tlsearch.training.split_point import find_split_point

NEEDS_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
BOTH = pytest.mark.parametrize("cuda", [pytest.param(False, id="cpu"), pytest.param(True, marks=NEEDS_GPU)])
"""The CPU shows that the test itself is right."""


def on_gpu(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of what a CPU hasn't got."""
    for mark in NEEDS_GPU:
        test = mark(test)
    return test


@on_gpu
@pytest.mark.parametrize("item", [point(freeze_depth=0.67), point(freeze_depth=0.0), point("linear_probe")])
def test_training_on_a_gpu_scores_as_on_a_cpu(tmp_path, item):
    ended = [outcomes(results(bench(tmp_path / str(cuda), cuda=cuda), item))[0] for cuda in (False, True)]
    assert [outcome.state for outcome in ended] == [TrialState.COMPLETE] * 2, ended[1].reason
    assert ended[1].cache == ended[0].cache
    assert ended[1].metrics["log_loss"] == pytest.approx(ended[0].metrics["log_loss"], abs=0.05)


@on_gpu
@pytest.mark.parametrize("room", [0, 2**28])
def test_stored_outputs_stay_on_the_device_where_they_fit(tmp_path, room):
    worker = bench(tmp_path, cuda=True)
    pretrained = worker.backbone(BACKBONE)
    data = worker.data("data", pretrained.info.inputs)
    model = worker.build(registry.strategy("fine_tune"), point(), pretrained, data, None)
    split_point = find_split_point(model, worker.example(pretrained))
    feed = worker.feed(data, pretrained, split_point, "none", Counts(), lambda: model)
    feed.room = lambda: room
    for inputs, _ in feed.train(1, batch_size=16, seed=0):
        assert inputs[0].is_cuda
    kept = feed._views[0].activations
    assert isinstance(kept, Activations)
    assert all(tensor.is_cuda for tensor in kept.resident)
    assert bool(kept.resident) == bool(room)
    (rows,) = kept.fetch(data.indices["train"][:1] * 0)
    assert rows.is_cuda == bool(room)
    assert rows.is_pinned() != bool(room)


@on_gpu
def test_a_share_of_the_memory_is_all_that_a_trial_gets():
    total = torch.cuda.get_device_properties(0).total_memory
    take_share(0.25)
    try:
        assert device_room(0.25) <= total // 8
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 3, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[Any], None]) -> None:
    """Have fine-tuning show each batch inside its loss."""
    plugin = type(registry.strategy("fine_tune"))
    loss = plugin.loss

    def watched(self: Any, model: Any, batch: Any, params: Any) -> Any:
        look(batch)
        return loss(self, model, batch, params)

    monkeypatch.setattr(plugin, "loss", watched)


@BOTH
def test_on_a_gpu_training_is_in_mixed_precision(tmp_path, monkeypatch, cuda):
    seen = set()

    def look(batch: Any) -> None:
        square = torch.ones(2, 2, device=batch.targets.device)
        seen.add((batch.inputs[0].device.type, (square @ square).dtype))

    watch(monkeypatch, look)
    worker = bench(tmp_path, cuda=cuda)
    (ended,) = outcomes(results(worker, point(freeze_depth=0.0))).values()
    assert ended.state is TrialState.COMPLETE, ended.reason
    half = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float16
    assert seen == {("cuda", half) if cuda else ("cpu", torch.float32)}
    assert ended.artifact is not None
    kinds = {tensor.dtype for tensor in load_file(ended.artifact.uri).values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}, "the weights stay whole"


@BOTH
def test_where_memory_runs_out_batches_are_taken_in_pieces(tmp_path, monkeypatch, cuda):
    def look(batch: Any) -> None:
        if len(batch.targets) > 5:  # a petabyte, asked for in earnest
            torch.empty(2**50, dtype=torch.uint8, device=batch.targets.device)

    watch(monkeypatch, look)
    (ended,) = outcomes(results(bench(tmp_path, cuda=cuda), point(freeze_depth=1.0, batch_size=16))).values()
    assert ended.state is TrialState.COMPLETE, ended.reason
    assert "memory ran out, so batches of 16 were taken in pieces of 4" in ended.reason


@BOTH
def test_batches_that_are_loaded_beforehand_are_those_of_a_cpu(tmp_path, cuda):
    def batches(folder: Any, cuda: bool) -> list[tuple[Any, Any]]:
        worker = bench(folder, cuda=cuda)
        pretrained = worker.backbone(BACKBONE)
        data = worker.data("data", pretrained.info.inputs)
        model = worker.build(registry.strategy("fine_tune"), point(), pretrained, data, None)
        split_point = find_split_point(model, worker.example(pretrained))
        feed = worker.feed(data, pretrained, split_point, "none", Counts(), lambda: model)
        assert bool(feed.ahead) == cuda
        return list(feed.train(1, batch_size=16, seed=0))

    found, expected = batches(tmp_path / "it", cuda), batches(tmp_path / "cpu", False)
    assert len(found) == len(expected) > 1
    for (inputs, targets), (known, labels) in zip(found, expected, strict=True):
        assert inputs[0].is_cuda == cuda
        torch.testing.assert_close(inputs[0].cpu(), known[0], atol=1e-3, rtol=1e-3)
        assert torch.equal(targets.cpu(), labels)
