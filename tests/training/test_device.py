"""What only a GPU can show."""

from __future__ import annotations

import pytest
import torch
from tiny_bench import BACKBONE, bench, outcomes, point, results

from tlsearch import registry
from tlsearch.records import TrialState
from tlsearch.training.activations import Activations
from tlsearch.training.feed import Counts
from tlsearch.training.frontier import find_frontier
from tlsearch.training.memory import device_room, take_share

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("item", [point(freeze_depth=0.67), point(freeze_depth=0.0), point("linear_probe")])
def test_training_on_a_gpu_scores_as_on_a_cpu(tmp_path, item):
    ended = [outcomes(results(bench(tmp_path / str(cuda), cuda=cuda), item))[0] for cuda in (False, True)]
    assert [outcome.state for outcome in ended] == [TrialState.COMPLETE] * 2, ended[1].reason
    assert ended[1].cache == ended[0].cache
    assert ended[1].metrics["log_loss"] == pytest.approx(ended[0].metrics["log_loss"], abs=0.05)


@pytest.mark.parametrize("room", [0, 2**28])
def test_stored_outputs_stay_on_the_device_where_they_fit(tmp_path, room):
    worker = bench(tmp_path, cuda=True)
    pretrained = worker.backbone(BACKBONE)
    data = worker.data("data", pretrained.info.inputs)
    model = worker.build(registry.strategy("fine_tune"), point(), pretrained, data, None)
    frontier = find_frontier(model, worker.example(pretrained))
    feed = worker.feed(data, pretrained, frontier, "none", Counts(), lambda: model)
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


def test_a_share_of_the_memory_is_all_that_a_trial_gets():
    total = torch.cuda.get_device_properties(0).total_memory
    take_share(0.25)
    try:
        assert device_room(0.25) <= total // 8
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 3, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
