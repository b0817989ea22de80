"""The sources whose items are arrays: digits, fashion_mnist, torchvision."""

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlsearch.contracts import NoOptions
from tlsearch.datasets.digits import Digits
from tlsearch.datasets.fashion_mnist import DEBIAN_PATH, FashionMNIST, FashionMNISTOptions, read_idx
from tlsearch.datasets.torchvision import TorchvisionDataset, TorchvisionOptions
from tlsearch.errors import DataError


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path) -> Path:
    """Files laid out as torchvision wants them: 100 training and 20 test images."""
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 100), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def fashion(folder: Path, **options):
    return FashionMNIST().load(FashionMNISTOptions.model_validate({"path": str(folder), **options}))


def test_digits():
    samples = Digits().load(NoOptions())
    assert len(samples.items) == len(samples.labels) == len(samples.names) == 1797
    assert samples.classes == tuple("0123456789")
    assert samples.items[0].shape == (8, 8)
    assert samples.items[0].dtype == np.uint8
    assert np.max(samples.items) == 255
    assert samples.splits is None
    assert not Digits.mirror


def test_fashion_mnist_plain_and_packed(mnist):
    plain = fashion(mnist)
    assert len(plain.items) == 120
    assert plain.splits == ["train"] * 100 + ["test"] * 20
    assert plain.labels[:3] == [0, 1, 2]
    assert (plain.items[0] == read_idx(mnist / "train-images-idx3-ubyte", dimensions=3)[0]).all()
    for path in list(mnist.iterdir()):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = fashion(mnist)
    assert packed.labels == plain.labels
    assert np.array_equal(packed.items, plain.items)


def test_fashion_mnist_subset_is_stratified_and_seeded(mnist):
    some = fashion(mnist, train_items=33)
    train = [label for label, split in zip(some.labels, some.splits, strict=True) if split == "train"]
    assert sorted(np.bincount(train)) == [3] * 7 + [4] * 3
    assert some.splits.count("test") == 20
    assert some.names == fashion(mnist, train_items=33).names
    assert some.names != fashion(mnist, train_items=33, seed=1).names
    assert fashion(mnist, train_items=100).names == fashion(mnist).names
    with pytest.raises(DataError, match="there are 100"):
        fashion(mnist, train_items=101)
    few = fashion(mnist, test_items=10)
    assert few.splits.count("train") == 100
    assert sorted(few.labels[100:]) == list(range(10))
    with pytest.raises(DataError, match="test_items is 21, but there are 20"):
        fashion(mnist, test_items=21)


def test_fashion_mnist_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz") as caught:
        fashion(tmp_path)
    assert "dataset-fashion-mnist" in caught.value.hint
    assert str(tmp_path) in caught.value.message


def test_damaged_idx_files(tmp_path):
    path = tmp_path / "x"
    good = idx(np.zeros((3, 4, 4), np.uint8))
    for content, reason in {
        good[:-1]: "48 bytes",
        good + b"0": "more",
        b"": "not an IDX",
        good[:9]: "not an IDX",
        b"\0\0\x09\x03" + good[4:]: "not an IDX",
        struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3): "holds 0",
    }.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            read_idx(path, dimensions=3)
    packed = tmp_path / "x.gz"
    for content in (gzip.compress(good)[:-9], good, gzip.compress(good)[:12] + b"\xff" * 20):
        packed.write_bytes(content)
        with pytest.raises(DataError, match=r"can't be read|not an IDX"):
            read_idx(packed, dimensions=3)


def test_fashion_mnist_files_that_do_not_belong_together(mnist):
    shutil.copy(mnist / "t10k-labels-idx1-ubyte", mnist / "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match="belong together"):
        fashion(mnist)


@pytest.mark.skipif(not DEBIAN_PATH.is_dir(), reason="Debian's package dataset-fashion-mnist isn't installed")
def test_fashion_mnist_for_real():
    samples = FashionMNIST().load(FashionMNISTOptions())
    assert np.bincount(samples.labels).tolist() == [7000] * 10


def torchvision(**options):
    return TorchvisionDataset().load(TorchvisionOptions.model_validate(options))


def test_torchvision_with_a_train_argument(mnist):
    samples = torchvision(name="FashionMNIST", root=str(mnist.parent.parent))
    ours = fashion(mnist)
    assert samples.splits == ours.splits
    assert samples.labels == ours.labels
    assert samples.classes == ours.classes
    assert all((samples.items[index] == ours.items[index]).all() for index in (0, 99, 100, 119))
    assert samples.names[100] == "test 0"
    assert len(samples.items[98:102]) == 4
    with pytest.raises(IndexError):
        samples.items[120]


def test_torchvision_with_a_split_argument(tmp_path):
    from scipy.io import savemat

    for split, count in (("train", 12), ("test", 6)):
        images = np.full((32, 32, 3, count), 7, np.uint8)
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": np.arange(count)[:, None] % 3})
    from torchvision.datasets import SVHN

    checked = SVHN._check_integrity
    SVHN._check_integrity = lambda self: True  # these aren't the real files
    try:
        samples = torchvision(name="SVHN", root=str(tmp_path))
    finally:
        SVHN._check_integrity = checked
    assert samples.splits == ["train"] * 12 + ["test"] * 6
    assert samples.items[0].shape == (32, 32, 3)
    assert samples.classes == ("0", "1", "2")


def test_torchvision_takes_the_part_that_is_asked_for(mnist):
    samples = torchvision(name="FashionMNIST", root=str(mnist.parent.parent), arguments={"train": False})
    assert samples.splits is None
    assert len(samples.items) == 20


def test_torchvision_without_files_and_root():
    samples = torchvision(name="FakeData", arguments={"size": 30, "num_classes": 3})
    assert len(samples.items) == 30
    assert samples.items[0].shape == (224, 224, 3)
    assert len(samples.classes) == 3
    assert samples.splits is None


def test_torchvision_image_folder_decodes_lazily_and_names_what_is_broken(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "a/1.png").write_bytes(b"nothing")
    samples = torchvision(name="ImageFolder", root=str(tmp_path))
    assert samples.classes == ("a", "b")
    assert samples.labels == [0, 0, 1, 1]
    with pytest.raises(DataError, match="can't be decoded"):
        samples.items[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "CIFAR11"}, 'Did you mean "CIFAR10"'),
        ({"name": "VisionDataset"}, "has no"),
        ({"name": "utils"}, "has no"),
        ({"name": "CIFAR10"}, "Set root"),
        ({"name": "CIFAR10", "root": "/nowhere"}, "downloads nothing"),
        ({"name": "EuroSAT", "root": "/nowhere"}, "downloads nothing"),
        ({"name": "Flowers102", "root": "/nowhere"}, "downloads nothing"),
        ({"name": "SEMEION", "root": "/nowhere"}, "downloads nothing"),
        ({"name": "EMNIST", "root": "/nowhere", "arguments": {"split": "letters"}}, "downloads nothing"),
        ({"name": "FakeData", "arguments": {"siez": 3}}, "siez"),
        ({"name": "FakeData", "arguments": {"num_classes": 1, "size": 3}}, "1 class"),
    ],
)
def test_torchvision_says_what_is_wrong(options, reason):
    with pytest.raises(DataError, match=reason):
        torchvision(**options)
    assert not Path("/nowhere").exists()
