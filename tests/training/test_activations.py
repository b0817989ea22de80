from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tlsearch.training.activations import (
    Activations,
    Items,
    Known,
    Materialized,
    Uncached,
    activations,
    materialize,
)
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.split_point import find_split_point, find_split_points
from tlsearch.training.trained_part import trainable_names

LIMIT = 2**20


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(cin, cout, 3, stride=2, padding=1), nn.BatchNorm2d(cout), nn.ReLU(True))
            for cin, cout in ((3, 8), (8, 8), (8, 16))
        )
        self.head = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = block(inputs)
        logits: Tensor = self.head(inputs.mean((2, 3)))
        return logits

    def freeze(self, count: int) -> Net:
        for index, block in enumerate(self.blocks):
            block.requires_grad_(index >= count)
        return self


class Pictures:
    """Ten items that count how often they are read."""

    def __init__(self) -> None:
        self.images = torch.randn(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        self.reads = 0

    def read(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        self.reads += len(indices)
        return self.images[torch.from_numpy(indices)]


@pytest.fixture
def pictures() -> Pictures:
    return Pictures()


@pytest.fixture
def items(tmp_path: Path, pictures: Pictures) -> Items:
    torch.manual_seed(0)
    return Items(ArrayStore(tmp_path / "store"), "data", "plain", 10, pictures.read, batch=4)


def stored(result: Activations | Uncached) -> Activations:
    assert isinstance(result, Activations), result
    return result


def kept_for(net: Net, pictures: Pictures, items: Items, **options: Any) -> Activations:
    split_point = find_split_point(net, pictures.images[:1])
    return stored(activations(split_point, items=items, limit_bytes=LIMIT, **options))


def test_stored_rows_are_the_prefixs_outputs(items: Items, pictures: Pictures) -> None:
    split_point = find_split_point(Net().freeze(2), pictures.images[:1])
    kept = stored(activations(split_point, items=items, limit_bytes=LIMIT))
    assert (kept.images, pictures.reads) == (10, 10)
    wanted = np.array([8, 1, 8])
    (rows,) = kept.fetch(wanted)
    (expected,) = split_point.prefix(pictures.images[wanted])
    torch.testing.assert_close(rows, expected)
    rows.zero_()  # a copy: what is stored stays
    torch.testing.assert_close(kept.fetch(wanted)[0], expected)


def test_the_same_prefix_is_read_and_not_computed_again(items: Items, pictures: Pictures) -> None:
    net = Net().freeze(2)
    first = kept_for(net, pictures, items)
    net.head = nn.Linear(16, 9)  # another trial: another head, the same frozen layers
    again = kept_for(net, pictures, items)
    assert (again.images, pictures.reads) == (0, 10)
    assert all(map(torch.equal, first.fetch(np.array([3])), again.fetch(np.array([3]))))


@pytest.mark.parametrize(
    "change", [{"data_key": "e"}, {"view_key": "flip"}, {"dtype": "float16"}, {"count": 2}]
)
def test_other_content_is_another_entry(items: Items, pictures: Pictures, change: dict[str, Any]) -> None:
    split_point = find_split_point(Net().freeze(2), pictures.images[:1])
    activations(split_point, items=items, limit_bytes=LIMIT)
    assert stored(activations(split_point, items=replace(items, **change), limit_bytes=LIMIT)).images > 0


def test_other_weights_are_another_entry(items: Items, pictures: Pictures) -> None:
    net = Net().freeze(2)
    activations(find_split_point(net, pictures.images[:1]), items=items, limit_bytes=LIMIT)
    with torch.no_grad():
        net.blocks[0][0].bias += 1  # type: ignore[index]
    assert kept_for(net, pictures, items).images == 10


@pytest.mark.parametrize("channels_last", [False, True])
def test_training_on_stored_rows_is_training_on_images(
    items: Items, pictures: Pictures, channels_last: bool
) -> None:
    net = Net().freeze(1)
    if channels_last:
        net.to(memory_format=torch.channels_last)
    split_point = find_split_point(net, pictures.images[:1])
    rows = stored(activations(split_point, items=items, limit_bytes=LIMIT)).fetch(np.array([1, 5, 9]))
    assert split_point.boundary[0].channels_last == channels_last
    assert rows[0].is_contiguous(memory_format=torch.channels_last) == channels_last
    torch.testing.assert_close(split_point.eval_forward(rows), net.eval()(pictures.images[[1, 5, 9]]))


def test_half_precision_is_given_back_in_the_models_dtype(items: Items, pictures: Pictures) -> None:
    split_point = find_split_point(Net().freeze(3), pictures.images[:1])
    kept = stored(activations(split_point, items=replace(items, dtype="float16"), limit_bytes=LIMIT))
    assert kept.arrays[0].dtype == np.float16
    (rows,) = kept.fetch(np.array([1, 2]))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, split_point.prefix(pictures.images[1:3])[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_kept_on_a_device_are_the_stored_ones(items: Items, pictures: Pictures, dtype: str) -> None:
    net = Net().freeze(1).to(memory_format=torch.channels_last)
    split_point = find_split_point(net, pictures.images[:1])
    kept = stored(activations(split_point, items=replace(items, dtype=dtype), limit_bytes=LIMIT))
    resident = kept.onto(torch.device("cpu"))
    assert (
        sum(tensor.nbytes for tensor in resident.resident)
        == kept.bytes
        == 10 * 8 * 8 * 8 * int(dtype[5:]) // 8
    )
    wanted = np.array([8, 1, 8])
    (rows,), (expected,) = resident.fetch(wanted), kept.fetch(wanted)
    assert torch.equal(rows, expected)
    assert rows.dtype == expected.dtype
    assert rows.stride() == expected.stride()
    rows.zero_()  # a copy here too
    assert torch.equal(resident.fetch(wanted)[0], expected)


def test_the_pass_counts_the_operations_of_its_deepest_prefix(items: Items, pictures: Pictures) -> None:
    taps = cuts(Net(), pictures)
    deepest = max(tap.prefix_flops for tap in taps)
    assert materialize(taps, items=items, limit_bytes=LIMIT).flops == 10 * deepest
    assert materialize(taps, items=items, limit_bytes=LIMIT).flops == 0


def test_what_does_not_fit_is_not_stored_and_the_reason_is_told(items: Items, pictures: Pictures) -> None:
    split_point = find_split_point(Net().freeze(1), pictures.images[:1])
    result = activations(split_point, items=items, limit_bytes=100)
    assert isinstance(result, Uncached)
    assert "would take" in result.reason
    assert pictures.reads == 0


def test_a_model_without_a_prefix_is_not_stored(items: Items, pictures: Pictures) -> None:
    result = activations(find_split_point(Net(), pictures.images[:1]), items=items, limit_bytes=LIMIT)
    assert isinstance(result, Uncached)
    assert result.reason == "no layer before the trained ones is frozen"


def test_values_too_large_for_half_precision_are_not_stored(items: Items, pictures: Pictures) -> None:
    net = Net().freeze(1)
    with torch.no_grad():
        net.blocks[0][1].bias += 1e6  # type: ignore[index]
    result = activations(
        find_split_point(net, pictures.images[:1]), items=replace(items, dtype="float16"), limit_bytes=LIMIT
    )
    assert isinstance(result, Uncached)
    assert "too large" in result.reason
    assert items.store.size() == 0


def cuts(net: Net, pictures: Pictures) -> list[Any]:
    marks = [trainable_names(net.freeze(count)) for count in (1, 2, 3)]
    found, why = find_split_points(net, pictures.images[:1], marks)
    assert not why
    return found


def test_one_pass_serves_every_freeze_depth(items: Items, pictures: Pictures) -> None:
    net = Net()
    done = materialize(cuts(net, pictures), items=items, limit_bytes=LIMIT)
    assert (done.images, len(done.stored), done.skipped) == (10, 3, {})
    for count in (1, 2, 3):
        kept = stored(
            activations(
                find_split_point(net.freeze(count), pictures.images[:1]), items=items, limit_bytes=LIMIT
            )
        )
        assert kept.images == 0
    assert pictures.reads == 10
    assert materialize(cuts(net, pictures), items=items, limit_bytes=LIMIT).images == 0


def test_a_trial_that_must_compute_stores_other_depths_in_the_same_pass(
    items: Items, pictures: Pictures
) -> None:
    net = Net()
    taps = cuts(net, pictures)
    first = activations(
        find_split_point(net.freeze(1), pictures.images[:1]), items=items, limit_bytes=LIMIT, also=taps
    )
    assert stored(first).images == 10
    for count in (2, 3):
        kept = stored(
            activations(
                find_split_point(net.freeze(count), pictures.images[:1]), items=items, limit_bytes=LIMIT
            )
        )
        assert kept.images == 0
    assert pictures.reads == 10


def test_layers_that_changed_since_they_were_looked_at_store_nothing(
    items: Items, pictures: Pictures
) -> None:
    net = Net()
    taps = cuts(net, pictures)
    deepest = max(taps, key=lambda tap: tap.prefix_flops)
    last = [p for p in net.parameters() if any(p is read for read, _ in deepest._read)][-1]
    with torch.no_grad():
        last.mul_(2)
    done = materialize(taps, items=items, limit_bytes=LIMIT)
    assert deepest.stale
    assert list(done.skipped) == [deepest.key]
    assert "changed" in done.skipped[deepest.key]
    assert sorted(done.stored) == sorted(tap.key for tap in taps if tap is not deepest)


def test_a_small_budget_keeps_what_saves_most_per_byte(items: Items, pictures: Pictures) -> None:
    taps = cuts(Net(), pictures)
    done = materialize(taps, items=items, limit_bytes=10 * taps[2].bytes_per_item)
    assert list(done.stored) == [taps[2].key]
    assert set(done.skipped) == {taps[0].key, taps[1].key}


def test_a_full_disk_is_a_reason_and_not_the_end(items: Items, pictures: Pictures) -> None:
    class Full(ArrayStore):
        def get_or_build(self, *_: Any) -> Any:
            raise OSError(28, "No space left on device")

    items = replace(items, store=Full(items.store.root))
    result = activations(
        find_split_point(Net().freeze(1), pictures.images[:1]), items=items, limit_bytes=LIMIT
    )
    assert isinstance(result, Uncached)
    assert "No space left" in result.reason


def test_a_pass_goes_on_where_another_process_stored_some_meanwhile(items: Items, pictures: Pictures) -> None:
    net = Net()
    taps = cuts(net, pictures)

    class Racing(ArrayStore):
        def open(self, key: str) -> Any:
            # The first look sees nothing; the builder's own look, under the lock, sees all.
            looks[key] = looks.get(key, 0) + 1
            return None if looks[key] == 1 else super().open(key)

    looks: dict[str, int] = {}
    materialize(taps[:1], items=items, limit_bytes=LIMIT)
    items = replace(items, store=Racing(items.store.root))
    done = materialize(taps, items=items, limit_bytes=LIMIT)
    assert isinstance(done, Materialized)
    assert len(done.stored) == 3
    assert done.images == 10


def test_rows_that_another_study_stored_are_copied_and_only_the_others_computed(
    items: Items, pictures: Pictures
) -> None:
    split_point = find_split_point(Net().freeze(2), pictures.images[:1])
    order = np.array([7, 2, 9, 4, 0])
    theirs = replace(items, data_key="old", count=5, read=lambda chosen: pictures.read(order[chosen]))
    activations(split_point, items=theirs, limit_bytes=LIMIT)
    rows = np.full(10, -1)
    rows[order] = np.arange(5)
    pictures.reads = 0
    kept = stored(
        activations(split_point, items=replace(items, known=Known("old", 5, rows)), limit_bytes=LIMIT)
    )
    assert (kept.images, pictures.reads) == (5, 5)
    torch.testing.assert_close(kept.fetch(np.arange(10))[0], split_point.prefix(pictures.images)[0])


def test_where_another_study_stored_nothing_all_is_computed(items: Items, pictures: Pictures) -> None:
    split_point = find_split_point(Net().freeze(2), pictures.images[:1])
    known = Known("old", 5, np.arange(10) % 5)
    kept = stored(activations(split_point, items=replace(items, known=known), limit_bytes=LIMIT))
    assert (kept.images, pictures.reads) == (10, 10)
