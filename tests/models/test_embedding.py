"""Embeddings are the trunk's features; the most similar items come first."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch
from tiny_bench import BACKBONE

from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.errors import InputError
from tlsearch.models import embedding
from tlsearch.models.ensemble import Ensemble
from tlsearch.models.manifest import Manifest
from tlsearch.models.model import Model
from tlsearch.testing import classes


@pytest.fixture
def networks() -> list[Backbone]:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = Backbone(registry.backbone(BACKBONE, weights="pretrained", image_size=None), *classes(3))
        made.append(network.eval().requires_grad_(False))
    return made


def model_of(network, tmp_path) -> Model:
    manifest = Manifest(
        format=3,
        classes=("a", "b", "c"),
        backbone=BACKBONE,
        image_size=None,
        inputs={},
        strategy="fine_tune",
        params={},
        sha256="",
        bytes=0,
        metrics={},
        provenance={},
        calibration={},
        digest="",
    )
    return Model(network, network.info.inputs, manifest, tmp_path)


def pictures() -> list[object]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(5)]


def test_an_embedding_is_what_the_head_is_given_also_in_an_ensemble(networks, tmp_path):
    items = [*pictures(), b"no picture"]
    kept, found, errors = embedding.embed(model_of(networks[0], tmp_path), items)
    assert (kept, list(errors)) == ([0, 1, 2, 3, 4], [5])
    assert found.shape == (5, networks[0].info.width)
    with torch.inference_mode():
        expected = model_of(networks[0], tmp_path).logits(items[:5])
        np.testing.assert_allclose(networks[0].head(torch.from_numpy(found)), expected, atol=1e-5)
    ensemble = Ensemble(networks)
    assert ensemble.reused > 0  # whose frozen layers are read by others while they run
    _, same, _ = embedding.embed(model_of(ensemble, tmp_path), items[:5])
    np.testing.assert_allclose(same, found, atol=1e-5)
    assert embedding.embed(model_of(networks[0], tmp_path), [b"none"])[1].shape == (0, found.shape[1])


def test_files_hold_names_and_numbers(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    for name in ("e.parquet", "e.npz"):
        embedding.refuse_ending(tmp_path / name)
        embedding.write(tmp_path / name, ["x", "y"], values)
    frame = pandas.read_parquet(tmp_path / "e.parquet")
    assert frame["item"].tolist() == ["x", "y"]
    assert np.array_equal(np.stack(frame["embedding"].to_list()), values)
    with np.load(tmp_path / "e.npz") as archive:
        assert archive["items"].tolist() == ["x", "y"]
        assert np.array_equal(archive["embeddings"], values)
    with pytest.raises(InputError, match=r"\.parquet or \.npz, not to e\.csv"):
        embedding.refuse_ending(tmp_path / "e.csv")
    with pytest.raises(InputError, match="no folder"):
        embedding.refuse_ending(tmp_path / "none" / "e.npz")


def test_similarity_is_the_cosine():
    many = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]], dtype=np.float32)
    found = embedding.alike(np.array([1.0, 0.0], dtype=np.float32), many)
    np.testing.assert_allclose(found, [1.0, 0.0, 2**-0.5, 0.0], atol=1e-6)
