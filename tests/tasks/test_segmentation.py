from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.masks import composites
from tlsearch import registry
from tlsearch.contracts import Level, MapTask, Recipe, TargetSpec
from tlsearch.contracts.images import ImageInput
from tlsearch.contracts.masks import UNKNOWN
from tlsearch.errors import DataError
from tlsearch.testing import TaskContract

SPEC = TargetSpec(("ground", "crack"), {"values": [0, 1], "ignore": [], "threshold": None, "size": 4})


class TestSegmentation(TaskContract):
    task = "segmentation"
    targets = tuple(mask for _, mask in composites(24))


@pytest.fixture
def task() -> MapTask:
    found = registry.task("segmentation")
    assert isinstance(found, MapTask)
    return found


def logits(masks: torch.Tensor, classes: int = 2) -> torch.Tensor:
    return 10 * nn.functional.one_hot(masks, classes).movedim(-1, 1).float()


def test_scores_are_of_all_pixels_together_and_unknown_ones_count_nothing(task):
    truth = torch.zeros(2, 4, 4, dtype=torch.uint8)
    truth[0, 0] = 1  # 4 pixels of crack
    truth[1, 3] = UNKNOWN
    said = torch.zeros(2, 4, 4, dtype=torch.long)
    said[0, 0, :2] = 1  # 2 of them found
    said[1, 3] = 1  # where nothing is known
    scores = task.score(logits(said), truth, SPEC)
    assert scores["mean_iou"] == pytest.approx((24 / 26 + 2 / 4) / 2)
    assert scores["dice"] == pytest.approx((48 / 50 + 4 / 6) / 2)
    assert scores["pixel_accuracy"] == pytest.approx(26 / 28)
    wanted = truth.long()
    expected = nn.functional.cross_entropy(logits(said), wanted, ignore_index=UNKNOWN)
    assert scores["log_loss"] == pytest.approx(float(expected))


def test_batches_are_scored_as_all_at_once(task):
    rng = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, 2, 4, 4, generator=rng)
    truth = torch.randint(0, 2, (6, 4, 4), generator=rng).to(torch.uint8)
    batches = zip(outputs.split(2), truth.split(2), strict=True)
    found, expected = task.evaluate_batches(batches, SPEC, {}), task.evaluate(outputs, truth, SPEC, {})
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other)


def test_unknown_pixels_teach_nothing(task):
    outputs = torch.randn(2, 2, 4, 4, requires_grad=True)
    truth = torch.full((2, 4, 4), UNKNOWN, dtype=torch.uint8)
    truth[0, 0, 0] = 1
    task.loss(outputs, truth, Recipe()).backward()
    assert outputs.grad is not None
    assert set(torch.nonzero(outputs.grad.abs().sum(dim=1)).tolist()[0]) == {0}
    assert float(outputs.grad[1].abs().sum()) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy_and_dice_of_the_classes_that_occur(task, smoothing):
    rng = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 3, 4, 4, generator=rng)
    truth = torch.randint(0, 2, (2, 4, 4), generator=rng)  # none is of the third class
    truth[0, 0] = UNKNOWN
    recipe = Recipe(label_smoothing=smoothing)
    entropy = nn.functional.cross_entropy(outputs, truth, ignore_index=UNKNOWN, label_smoothing=smoothing)
    shares, known = outputs.softmax(dim=1), truth != UNKNOWN
    overlaps = [
        2 * shares[:, kind][truth == kind].sum() / (shares[:, kind][known].sum() + (truth == kind).sum())
        for kind in (0, 1)
    ]
    expected = entropy + 1 - sum(overlaps) / 2
    assert float(task.loss(outputs, truth.to(torch.uint8), recipe)) == pytest.approx(float(expected))
    plain = task.loss(outputs, truth.to(torch.uint8), replace(recipe, loss="cross_entropy"))
    assert float(plain) == pytest.approx(float(entropy))


def test_of_two_models_that_find_nothing_the_surer_of_the_truth_is_better(task):
    """Early stopping must see that something is learned before the first rare pixel is found."""
    truth = torch.zeros(1, 4, 4, dtype=torch.uint8)
    truth[0, 0] = 1
    blind, soon = torch.zeros(2, 1, 2, 4, 4)
    blind[:, 0], soon[:, 0], soon[0, 1, 0] = 3.0, 3.0, 2.0
    ranks = [task.rank(task.score(outputs, truth, SPEC), "mean_iou") for outputs in (blind, soon)]
    assert ranks[0][0] == ranks[1][0]
    assert ranks[0] < ranks[1]


def test_a_batch_of_which_nothing_is_known_has_a_loss(task):
    truth = torch.full((2, 4, 4), UNKNOWN, dtype=torch.uint8)
    assert float(task.loss(torch.randn(2, 2, 4, 4), truth, Recipe())) == 0


@pytest.mark.parametrize("policy", ["flip", "light"])
def test_masks_move_as_their_pictures_do(policy):
    """A picture that shows its own mask still does so after both were moved."""
    inputs = ImageInput(size=64, mean=(0, 0, 0), std=(1, 1, 1))
    masks = torch.zeros(12, 64, 64, dtype=torch.uint8)
    masks[:, 10:40, 5:30] = 1
    pictures = (masks * 200)[:, None].expand(-1, 3, -1, -1).contiguous()
    draws = inputs.draw(policy, 12, seed=3, mirror=True)
    assert draws is not None
    moved = inputs.move(masks, policy, draws, unknown=UNKNOWN)
    seen = inputs.augment(pictures, policy, draws)[:, 0] > 100
    known = moved != UNKNOWN
    assert (moved != masks).any()
    assert ((moved == 1) == seen)[known].float().mean() > 0.98


def test_a_mask_of_another_side_than_the_picture_moves_alike():
    inputs = ImageInput(size=64, mean=(0, 0, 0), std=(1, 1, 1))
    large = torch.zeros(4, 64, 64, dtype=torch.uint8)
    large[:, 16:48, :32] = 1
    draws = inputs.draw("light", 4, seed=1, mirror=True)
    assert draws is not None
    one, two = (inputs.move(m, "light", draws, unknown=UNKNOWN) for m in (large, large[:, ::2, ::2]))
    assert (one[:, ::2, ::2] == two).float().mean() > 0.95


def test_mirrored_outputs_come_back(task):
    outputs = torch.randn(1, 2, 4, 4)
    assert torch.equal(task.unmirrored(outputs.flip(-1)), outputs)


def test_the_decoder_gives_logits_of_the_masks_side(task):
    levels = (Level("a", 8, 12), Level("b", 16, 6), Level("c", 24, 3))
    head = task.map_head(levels, SPEC, dropout=0.1).eval()
    outputs = head(*(torch.randn(2, level.channels, level.side, level.side) for level in levels))
    assert outputs.shape == (2, 2, 4, 4)


def test_a_prediction_is_json_with_the_mask_in_it(task):
    from tlsearch.reports.mask_pictures import indices

    _, decoded = task.decode(logits(torch.eye(4, dtype=torch.long)[None]), SPEC, {})
    told = json.loads(json.dumps(task.predict(decoded[0].numpy(), SPEC, {})))
    assert told["shares"] == {"ground": 0.75, "crack": 0.25}
    assert np.array_equal(indices(told["mask"]), np.eye(4))
    assert task.say(told, top=1) == "ground 75.0%, crack 25.0%"


def test_a_drawn_mask_has_the_values_of_the_data(task):
    for values in ([0, 255], [3, 7], [0, 1000]):
        spec = TargetSpec(("a", "b"), {**SPEC.facts, "values": values})
        drawn = np.asarray(task.drawn(np.eye(4, dtype=np.uint8), spec))
        assert drawn.tolist() == np.where(np.eye(4) == 1, values[1], values[0]).tolist()


def test_audits_tell_what_a_mask_shows(task):
    assert task.shown(np.eye(4, dtype=np.uint8), SPEC) == "ground, crack"
    assert task.shown(np.full((4, 4), UNKNOWN, np.uint8), SPEC) == "nothing known"
    assert len(task.identity(np.eye(4, dtype=np.uint8), SPEC)) < 30


def test_words_are_no_masks(task):
    with pytest.raises(DataError, match="no masks"):
        task.describe(["cat", "dog"])
