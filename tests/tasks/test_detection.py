from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.boxes import HIGH, NAMES, WIDE, composites
from tlsearch import registry
from tlsearch.contracts import Level, PlaceTask, Recipe, TargetSpec
from tlsearch.contracts.images import ImageInput
from tlsearch.errors import DataError
from tlsearch.testing import TaskContract

SPEC = TargetSpec(("cat", "dog"), {"most": 3, "usual": 0.3, "small": 0.3})
LEVELS = (Level("a", 8, 12), Level("b", 16, 6), Level("c", 24, 3))


def plain(boxes):
    scale = (WIDE, HIGH, WIDE, HIGH)
    return [
        {"label": NAMES[kind], "box": [edge / side for edge, side in zip(box, scale, strict=True)]}
        for kind, *box in boxes
    ]


class TestDetection(TaskContract):
    task = "detection"
    targets = tuple(plain(boxes) for _, boxes in composites(24))


@pytest.fixture
def task() -> PlaceTask:
    found = registry.task("detection")
    assert isinstance(found, PlaceTask)
    return found


def targets(*items):
    rows = torch.full((len(items), 3, 5), -1.0)
    for row, own in zip(rows, items, strict=True):
        for at, one in enumerate(own):
            row[at] = torch.tensor(one)
    return rows


def perfect(wanted: torch.Tensor, side: int = 20) -> torch.Tensor:
    """Outputs that tell exactly these boxes, each at the place nearest to its centre."""
    outputs = torch.full((len(wanted), 7, side, side), -9.0)
    outputs[:, 3:] = 0.01
    for item, rows in enumerate(wanted):
        for kind, left, top, right, bottom in rows[rows[:, 0] >= 0].tolist():
            column, row = int((left + right) / 2 * side), int((top + bottom) / 2 * side)
            x, y = (column + 0.5) / side, (row + 0.5) / side
            outputs[item, int(kind), row, column] = outputs[item, 2, row, column] = 9
            outputs[item, 3:, row, column] = torch.tensor([x - left, y - top, right - x, bottom - y])
    return outputs


TWO = targets([(0, 0.1, 0.2, 0.5, 0.6), (1, 0.6, 0.1, 0.9, 0.9)], [])


def test_exact_boxes_score_fully_and_missed_ones_half(task):
    scores = task.score(perfect(TWO), TWO, SPEC)
    assert scores["map_50_95"] == scores["map_50"] == pytest.approx(1)
    half = TWO.clone()
    half[0, 1, 0] = -1
    scores = task.score(perfect(half), TWO, SPEC)
    assert scores["map_50"] == pytest.approx(0.5)
    assert task.evaluate(perfect(half), TWO, SPEC, {})[1] == {"cat": pytest.approx(1), "dog": 0}


def test_nothing_found_or_nothing_there_scores_nothing(task):
    nothing = torch.full((2, 7, 20, 20), -9.0)
    assert task.score(nothing, TWO, SPEC)["map_50_95"] == 0
    assert task.score(nothing, targets([], []), SPEC)["map_50"] == 0


def test_the_loss_falls_to_exact_boxes_and_pictures_without_objects_have_one(task):
    wild = torch.randn(2, 7, 20, 20)
    wild[:, 3:] = wild[:, 3:].exp()
    assert float(task.loss(perfect(TWO), TWO, Recipe())) < float(task.loss(wild, TWO, Recipe()))
    empty = task.loss(wild.requires_grad_(), targets([], []), Recipe())
    empty.backward()
    assert empty.isfinite()
    assert float(wild.grad[:, :2].abs().sum()) > 0


def test_a_box_smaller_than_a_place_is_learned(task):
    tiny = targets([(1, 0.501, 0.501, 0.509, 0.509)])
    outputs = torch.zeros(1, 7, 8, 8, requires_grad=True)
    task.loss(outputs + 0.1, tiny, Recipe()).backward()
    assert float(outputs.grad[0, 3:].abs().sum()) > 0


@pytest.mark.parametrize("policy", ["flip", "light"])
def test_boxes_move_as_their_pictures_do(task, policy):
    inputs = ImageInput(size=96, mean=(0, 0, 0), std=(1, 1, 1))
    pictures = torch.zeros(12, 3, 96, 96, dtype=torch.uint8)
    pictures[:, :, 36:60, 24:48] = 250
    boxes = targets(*[[(0, 24 / 96, 36 / 96, 48 / 96, 60 / 96)]] * 12)
    draws = inputs.draw(policy, 12, seed=3, mirror=True)
    assert draws is not None
    moved = task.move(boxes, inputs, policy, draws)
    assert (moved != boxes).any()
    for picture, rows in zip(inputs.augment(pictures, policy, draws), moved, strict=True):
        seen = picture[0] > 100
        y, x = seen.any(dim=1).nonzero(), seen.any(dim=0).nonzero()
        found = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 96
        assert torch.allclose(rows[0, 1:], found, atol=0.03)


def test_what_has_left_the_picture_is_no_box_any_more(task):
    inputs = ImageInput(size=96, mean=(0, 0, 0), std=(1, 1, 1))
    # Twice as large, about the centre: what stood at the corner is outside.
    draws = torch.tensor([[0.5, 0, 0, 0, 0.5, 0, 1, 1]])
    moved = task.move(targets([(0, 0, 0, 0.2, 0.2), (1, 0.4, 0.4, 0.6, 0.6)]), inputs, "light", draws)
    assert moved[0, :, 0].tolist() == [-1, 1, -1]
    assert torch.allclose(moved[0, 1, 1:], torch.tensor([0.3, 0.3, 0.7, 0.7]))


def test_mirrored_outputs_come_back(task):
    mirrored = TWO.clone()
    mirrored[..., 1], mirrored[..., 3] = 1 - TWO[..., 3], 1 - TWO[..., 1]
    back = task.unmirrored(perfect(mirrored))
    assert task.score(back, TWO, SPEC)["map_50_95"] == pytest.approx(1)


def test_the_mean_of_equal_networks_is_each_of_them(task):
    one = perfect(TWO)
    mean = task.average(torch.stack([one, one], dim=1))
    assert torch.allclose(mean[:, 3:], one[:, 3:])
    assert task.score(mean, TWO, SPEC)["map_50"] == pytest.approx(1)


def test_small_boxes_get_a_finer_map(task):
    maps = [torch.randn(2, level.channels, level.side, level.side) for level in LEVELS]
    for small, side in ((0.9, 3), (0.4, 6), (0.2, 12), (0.01, 12)):
        spec = TargetSpec(SPEC.names, {**SPEC.facts, "small": small})
        outputs = task.map_head(LEVELS, spec, dropout=0.1).eval()(*maps)
        assert outputs.shape == (2, 7, side, side)
        assert (outputs[:, 3:] > 0).all()


def test_a_prediction_has_each_object_once_in_pixels_of_its_picture(task):
    _, decoded = task.decode(perfect(TWO), SPEC, {})
    told = json.loads(json.dumps(task.in_pixels(task.predict(decoded[0].numpy(), SPEC, {}), (200, 100))))
    boxes = {one["label"]: one["box"] for one in told["objects"]}
    assert boxes == {"cat": [20, 20, 100, 60], "dog": [120, 10, 180, 90]}
    assert task.say(told, top=1) == "1 cat, 1 dog"
    assert task.say(task.predict(decoded[1].numpy(), SPEC, {}), top=1) == "no object"
    assert dict(task.cells(told, SPEC)) == {"count of cat": 1, "count of dog": 1}


def test_the_threshold_is_where_what_is_told_is_best(task):
    wanted = targets([(0, 0.1, 0.2, 0.5, 0.6)], [(0, 0.1, 0.2, 0.5, 0.6)])
    outputs = perfect(wanted)
    # A third object that isn't there, which the network is less sure of.
    outputs[0, 1, 17, 17] = outputs[0, 2, 17, 17] = 0
    evaluator = task.evaluator(SPEC)
    evaluator.update(outputs, wanted)
    threshold = evaluator.calibration()["threshold"]
    assert 0.5 < threshold < 1
    _, decoded = task.decode(outputs, SPEC, {})
    assert len(task.predict(decoded[0].numpy(), SPEC, {"threshold": threshold})["objects"]) == 1


def test_boxes_are_drawn_in_their_places(task):
    picture = Image.new("RGB", (200, 100))
    shown = np.asarray(task.laid_over(picture, TWO[0].numpy(), SPEC, {}))
    assert shown[60, 60].any()  # the lower edge of the first
    assert not shown[75, 60].any()


def test_an_export_that_finds_another_object_disagrees(task):
    _, both = task.decode(perfect(TWO), SPEC, {})
    one = TWO.clone()
    one[0, 1, 0] = -1
    _, less = task.decode(perfect(one), SPEC, {})
    assert task.disagreement(both.numpy(), both.numpy(), SPEC, allowed=1e-3) == (0, "")
    assert task.disagreement(both.numpy(), less.numpy(), SPEC, allowed=1e-3)[0] > 0.1


@pytest.mark.parametrize("wrong", [["cat", "dog"], [[{"label": "cat"}]], [3.5, 2.0]])
def test_what_is_no_box(task, wrong):
    with pytest.raises(DataError, match="no boxes"):
        task.describe(wrong)


def test_pictures_without_any_box(task):
    with pytest.raises(DataError, match="nothing to find"):
        task.describe([[], []])
    with pytest.raises(DataError, match='class "bird", which is not known'):
        task.encode([[{"label": "bird", "box": [0, 0, 1, 1]}]], SPEC)
