from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_bench import BACKBONE, bench, outcomes, point, results, study

import tlsearch
from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.errors import BundleError, DataError, UnknownNameError
from tlsearch.files import sha256_of
from tlsearch.models import bundle
from tlsearch.models.rebuild import rebuild
from tlsearch.records import Point
from tlsearch.testing import fixtures
from tlsearch.testing.attempts import watched

CLASSES = ["ant", "bee", "cat"]
POINTS = {
    "linear_probe": point("linear_probe"),
    "fine_tune": point("fine_tune"),
    "joint_training": point("joint_training"),
    "logistic": point("feature_copy"),
    "knn": point("feature_copy", params={"learner": "knn", "knn.k": 3}),
    "lda": point("feature_copy", params={"learner": "lda"}),
    "svm": point("feature_copy", params={"learner": "svm", "svm.C": 10.0, "svm.gamma": 1.0}),
}
Made = tuple[Path, Backbone]


def write(folder: Path, network: Backbone, item: Point, **changes: Any) -> Path:
    """A bundle, as the end of a search writes it."""
    manifest = {
        "classes": CLASSES,
        "image_size": None,
        "strategy": item.strategy,
        "params": dict(item.params),
        "metrics": {"val": {"accuracy": 0.5}},
        "provenance": {
            "study": "s",
            "plugins": [
                {"group": "g", "name": "tiny", "distribution": "tiny-plugins", "version": "1.0"},
                {"group": "g", "name": item.strategy, "distribution": "tlsearch-own", "version": "2.1"},
                {"group": "g", "name": "other", "distribution": "unrelated", "version": "9"},
            ],
        },
    }
    artifact = bundle.write(folder, network=network, manifest={**manifest, **changes})
    assert artifact.uri == str(folder)
    assert artifact.sha256 == sha256_of(folder / bundle.WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Callable[[str], Made]:
    """A bundle of each kind of strategy, trained, and the network that it was written from."""
    folder = tmp_path_factory.mktemp("trained")
    source = {"source": "tiny_colours", "classes": 4}
    worker = bench(folder, study(source_data=source, budget={"epochs": 1}))
    made: dict[str, Made] = {}

    def get(kind: str) -> Made:
        if kind not in made:
            item = POINTS[kind]
            (outcome,) = outcomes(results(worker, item)).values()
            assert outcome.artifact is not None, outcome.reason
            network = rebuild(
                backbone=BACKBONE,
                weights="pretrained",
                image_size=None,
                strategy=item.strategy,
                params=item.params,
                **fixtures.learned(3),
                state=load_file(Path(outcome.artifact.uri)),
            )
            made[kind] = write(folder / kind, network, item), network
        return made[kind]

    return get


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A bundle of the test's own."""
    return Path(shutil.copytree(trained("fine_tune")[0], tmp_path / "copied"))


def pictures(count: int = 5, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8))


def edit(folder: Path, *, vouched: bool = True, **changes: Any) -> None:
    """Change a description, and the checksums too, as whoever can write the one can do with the other."""
    path, weights = folder / bundle.MANIFEST, folder / bundle.WEIGHTS
    document = {**json.loads(path.read_text()), **changes}
    if vouched:
        with contextlib.suppress(SafetensorError):  # a test of weights that are none
            save_file(load_file(weights), weights, {bundle.DESCRIPTION: bundle.digest_of(document)})
        if "sha256" not in changes:
            document |= {"sha256": sha256_of(weights), "bytes": weights.stat().st_size}
    path.write_text(json.dumps(document))


def test_a_file_of_a_bundle_stands_for_its_folder(copied):
    for name in (bundle.MANIFEST, bundle.WEIGHTS):
        assert bundle.load(copied / name).folder == copied


def refused(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        bundle.load(folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


# ------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("kind", POINTS)
def test_a_model_of_any_strategy_predicts_as_before(trained, kind):
    folder, network = trained(kind)
    model = tlsearch.load(folder)
    items = pictures(70)  # more than a batch
    inputs = network.info.inputs
    encoded = torch.from_numpy(np.stack([inputs.encode(item) for item in items]))
    with torch.inference_mode():
        expected = network(inputs.to_model(encoded)).numpy()
    np.testing.assert_allclose(model.logits(items), expected, atol=1e-5)
    assert model.classes == tuple(CLASSES)
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_a_bundle_holds_two_files_and_needs_nothing_else(trained, tmp_path):
    folder, _ = trained("knn")
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert sorted(path.name for path in moved.iterdir()) == ["bundle.json", "model.safetensors"]
    assert bundle.load(moved).predict(pictures()) == bundle.load(folder).predict(pictures())
    # All the weights are in it, those that training left alone too.
    assert any(name.startswith("trunk.blocks.0") for name in load_file(moved / bundle.WEIGHTS))


def test_buffers_of_any_size_come_back(trained):
    folder, network = trained("knn")
    model = bundle.load(folder)
    assert model.network.head.memory.shape == network.head.memory.shape
    assert len(model.network.head.memory) > 3


def test_preprocessing_is_the_bundles_and_not_the_plugins(trained, tmp_path):
    _, network = trained("fine_tune")
    plain = bundle.load(trained("fine_tune")[0])
    network = rebuild(
        backbone=BACKBONE,
        weights="random",
        image_size=None,
        strategy="fine_tune",
        params=POINTS["fine_tune"].params,
        **fixtures.learned(3),
        state=network.state_dict(),
        complete=True,
    )
    network.info = replace(network.info, inputs=replace(network.info.inputs, mean=(0.1, 0.2, 0.3)))
    model = bundle.load(write(tmp_path / "other", network, POINTS["fine_tune"]))
    assert model.inputs == network.info.inputs
    assert not np.allclose(model.logits(pictures()), plain.logits(pictures()))


def test_an_older_bundle_at_the_same_place_is_replaced(trained, tmp_path):
    place = tmp_path / "best"
    for kind in ("lda", "knn"):
        write(place, trained(kind)[1], POINTS[kind])
    assert bundle.read_manifest(place).params == POINTS["knn"].params
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failed_write_leaves_the_old_bundle(trained, tmp_path):
    folder, network = trained("lda")
    place = Path(shutil.copytree(folder, tmp_path / "best"))
    with pytest.raises(TypeError):
        write(place, network, POINTS["lda"], metrics={"val": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert bundle.load(place).predict(pictures())


# ------------------------------------------------------------------------------ predictions


def test_predictions_agree_with_one_another(trained):
    model = bundle.load(trained("lda")[0])
    items = pictures(9)
    shares = model.predict_proba(items)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert model.predict(items) == [CLASSES[index] for index in shares.argmax(axis=1)]
    for row, told in zip(shares, model.describe(items), strict=True):
        assert told.label == CLASSES[int(row.argmax())]
        assert told.probability == pytest.approx(float(row.max()), abs=1e-5)
        assert list(told.probabilities.values()) == sorted(told.probabilities.values(), reverse=True)
        assert {name: pytest.approx(share, abs=1e-5) for name, share in told.probabilities.items()} == dict(
            zip(CLASSES, row.tolist(), strict=True)
        )


def test_pictures_may_be_named_by_strings_and_paths(trained, tmp_path):
    model = tlsearch.load(str(trained("lda")[0]))
    (array,) = pictures(1)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = model.predict([array])
    assert model.predict([tmp_path / "a.png"]) == model.predict([str(tmp_path / "a.png")]) == expected
    (told,) = model.describe([str(tmp_path / "a.png")])
    assert (told.item, told.label, told.error) == (str(tmp_path / "a.png"), expected[0], None)


def test_a_broken_item_is_told_and_ends_nothing(trained, tmp_path):
    model = bundle.load(trained("lda")[0])
    (tmp_path / "bad.png").write_bytes(b"<html>")
    items = [*pictures(70), tmp_path / "bad.png", tmp_path / "none.png", *pictures(3, seed=1)]
    told = list(model.describe(items))
    assert [index for index, one in enumerate(told) if one.error] == [70, 71]
    assert "HTML" in str(told[70].error)
    assert told[70].item == str(tmp_path / "bad.png")
    assert (told[70].label, told[70].probability, told[70].probabilities) == (None, None, {})
    assert told[0].item == "item 0"
    assert told[74].item == "item 74"
    kept, logits, errors = model.readable(items)
    assert kept == [*range(70), 72, 73, 74]
    assert sorted(errors) == [70, 71]
    np.testing.assert_allclose(logits[-3:], model.logits(pictures(3, seed=1)), atol=1e-5)
    with pytest.raises(DataError, match=r"1 of 75 items.*item 71"):
        model.predict(items)


def test_nothing_gives_nothing(trained):
    model = bundle.load(trained("lda")[0])
    assert model.logits([]).shape == (0, 3)
    assert model.predict([]) == []
    assert list(model.describe([])) == []
    assert model.readable([])[0] == []


# ----------------------------------------------------------------------------------- damage


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_of_the_weights_is_noticed(copied, place, flip):
    path = copied / bundle.WEIGHTS
    content = bytearray(path.read_bytes())
    index = int(place * len(content))
    content[index] ^= flip
    path.write_bytes(content)
    assert "SHA-256 differs" in refused(copied)
    content[index] ^= flip
    path.write_bytes(content)
    bundle.load(copied)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_the_description_is_noticed(copied, place, bit):
    path = copied / bundle.MANIFEST
    before = path.read_bytes()
    content = bytearray(before)
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        if bytes(content).split() == before.split() or same(content, before):
            return  # white space between the values, or another way to write the same number
        assert refused(copied)
    finally:
        path.write_bytes(before)


def same(one: bytes | bytearray, other: bytes) -> bool:
    """Whether two texts are the same JSON."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["ant", "cat", "bee"]},
        {"inputs": {"size": 16, "mean": [0.5, 0.4, 0.5], "std": [0.5, 0.5, 0.5]}},
        {"metrics": {"val": {"accuracy": 0.99}}},
        {"bytes": 3},
        {"provenance": {}},
        {"note": "new"},
    ],
)
def test_a_description_that_was_changed_is_refused(copied, changes):
    edit(copied, vouched=False, **changes)
    assert "isn't what was written: its SHA-256 differs" in refused(copied)


def test_the_checksum_of_the_weights_covers_the_description(trained, tmp_path):
    _, network = trained("fine_tune")
    other = write(tmp_path / "other", network, POINTS["fine_tune"], classes=["ant", "bee", "dog"])
    same_weights = write(tmp_path / "same", network, POINTS["fine_tune"])
    assert bundle.check(other).sha256 != bundle.check(same_weights).sha256
    assert bundle.check(same_weights) == bundle.check(trained("fine_tune")[0])


def test_truncated_or_missing_files(copied, tmp_path):
    path = copied / bundle.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    assert "SHA-256 differs" in refused(copied)
    path.unlink()
    assert "holds no model.safetensors" in refused(copied)
    (copied / bundle.MANIFEST).unlink()
    assert "not a model bundle: it has no bundle.json" in refused(copied)
    assert "not a model bundle" in refused(tmp_path / "nowhere")
    (copied / bundle.MANIFEST).mkdir()
    assert "not a bundle's description" in refused(copied)


def test_a_newer_format_is_refused_with_the_way_out(copied):
    edit(copied, format=bundle.FORMAT + 1)
    said = refused(copied)
    assert f"has format {bundle.FORMAT + 1}; this tlsearch reads formats 2 to {bundle.FORMAT}" in said
    assert "Install" in said


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


@pytest.mark.parametrize("torch_format", [False, True])
def test_a_pickle_is_never_executed(copied, tmp_path, torch_format):
    weights, canary = copied / bundle.WEIGHTS, tmp_path / "canary"
    content = {"head.linear.weight": Canary(str(canary))}
    if torch_format:
        torch.save(content, weights)
    else:
        weights.write_bytes(pickle.dumps(content))
    edit(copied)
    assert "Can't read" in refused(copied)
    assert not canary.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("head.linear.bias"),
        lambda state: state.update(extra=torch.zeros(1)),
        lambda state: state.update({"head.linear.bias": torch.zeros(7)}),
        lambda state: state.update({"no.such.module.weight": torch.zeros(7)}),
        lambda state: state.clear(),
    ],
)
def test_weights_of_another_model_are_refused(copied, change):
    state = load_file(copied / bundle.WEIGHTS)
    change(state)
    save_file(state, copied / bundle.WEIGHTS)
    edit(copied)
    assert "don't fit the model" in refused(copied)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": []},
        {"classes": "abc"},
        {"classes": ["a", "b"]},
        {"classes": None},
        {"params": {}},
        {"params": []},
        {"params": {"freeze_depth": 9.0, "dropout": 0.0}},
        {"params": {"freeze_depth": "deep", "dropout": None}},
        {"backbone": 3},
        {"backbone": ["tiny/net"]},
        {"strategy": {"a": 1}},
        {"strategy": None},
        {"image_size": "large"},
        {"image_size": -5},
        {"image_size": True},
        {"inputs": {}},
        {"inputs": []},
        {"inputs": {"size": 10**7, "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"inputs": {"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}},
        {"inputs": {"size": 16, "mean": "abc", "std": [1, 1, 1]}},
        {"inputs": {"size": 16, "mean": [0, 0, 0], "std": [0, 1, 1]}},
        {"inputs": {"size": 16, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "magic"}},
        {"inputs": {"size": 16, "mean": [0, 0, 0], "std": [1, 1, 1], "more": 1}},
        {"sha256": None},
        {"sha256": ["a"]},
        {"format": None},
        {"format": "1"},
        {"metrics": 3},
        {"provenance": []},
    ],
)
def test_a_description_that_makes_no_sense_is_refused(copied, changes):
    edit(copied, **changes)
    assert refused(copied)


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "null", "{", "{}", '{"format": 1}', "\x00", "[" * 100_000]
)
def test_a_description_that_is_none(copied, content):
    (copied / bundle.MANIFEST).write_text(content)
    refused(copied)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5) | st.just("tiny/net"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from([*bundle.Manifest.__dataclass_fields__]), values, min_size=1, max_size=3)
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_errors_of_ours_come_out_of_a_damaged_description(copied, changes):
    path = copied / bundle.MANIFEST
    before = path.read_bytes()
    edit(copied, **changes)
    try:
        bundle.load(copied).predict(pictures(1))
    except (BundleError, UnknownNameError):
        pass
    finally:
        path.write_bytes(before)


@given(st.binary(max_size=200))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_bundle_errors_come_out_of_damaged_weights(copied, content):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    for written in (content, len(header).to_bytes(8, "little") + header + content):
        (copied / bundle.WEIGHTS).write_bytes(written)
        edit(copied)
        refused(copied)


# ---------------------------------------------------------------------------------- plugins


def test_a_missing_plugin_is_named_with_its_package(copied):
    edit(copied, strategy="own_strategy")
    document = json.loads((copied / bundle.MANIFEST).read_text())
    plugins = [
        *document["provenance"]["plugins"],
        {
            "group": "tlsearch.strategies",
            "name": "own_strategy",
            "distribution": "own-package",
            "version": "3.2",
        },
    ]
    edit(copied, provenance={"plugins": plugins})
    with pytest.raises(UnknownNameError, match='Unknown strategy "own_strategy"') as caught:
        bundle.load(copied)
    assert "own-package 3.2" in str(caught.value.hint)
    assert "unrelated" not in str(caught.value.hint)


def test_a_missing_backbone_is_named_with_its_package(copied):
    edit(copied, backbone="gone/net")
    document = json.loads((copied / bundle.MANIFEST).read_text())
    edit(
        copied,
        provenance={
            "plugins": [*document["provenance"]["plugins"], {"name": "gone", "distribution": "gone-away"}]
        },
    )
    with pytest.raises(UnknownNameError, match='"gone"') as caught:
        bundle.load(copied)
    assert "gone-away" in str(caught.value.hint)


@pytest.mark.parametrize("provenance", [{}, {"plugins": None}, {"plugins": [3, None]}, {"plugins": "x"}])
def test_where_the_package_is_not_known_the_list_is_named(copied, provenance):
    edit(copied, strategy="own_strategy", provenance=provenance)
    with pytest.raises(UnknownNameError) as caught:
        bundle.load(copied)
    assert "tlsearch plugins strategies" in str(caught.value)


def test_an_installed_family_that_lost_a_variant(copied):
    edit(copied, backbone="tiny/huge")
    with pytest.raises(UnknownNameError, match="tiny/huge") as caught:
        bundle.load(copied)
    assert "tiny-plugins 1.0" in str(caught.value)
    assert registry.backbone_family("tiny") is not None


# ------------------------------------------------------------------- of strangers: offline, always


@pytest.fixture
def from_a_folder(tmp_path) -> Path:
    """The bundle of a model whose backbone a search had found in a folder of timm's."""
    import timm

    folder = tmp_path / "source"
    whole = timm.create_model("test_resnet", num_classes=3, global_pool="max")
    timm.models.save_for_hf(whole, str(folder), safe_serialization=True)
    pretrained = registry.backbone(f"timm/local-dir:{folder}", weights="pretrained", image_size=32)
    network = Backbone(pretrained, *fixtures.classes(3))
    registry.strategy("linear_probe").restore(network, {})
    made = write(tmp_path / "bundle", network.eval(), point("linear_probe"), image_size=32)
    shutil.rmtree(folder)
    return made


def test_a_backbone_of_a_folder_is_rebuilt_from_the_bundle_alone(from_a_folder):
    with watched() as seen:
        model = bundle.load(from_a_folder)
    assert seen.network == []
    assert not [name for name in seen.files if "source" in name.split("/")]
    assert "max" in type(model.network.trunk.global_pool.pool).__name__.lower()  # type: ignore[union-attr]
    assert model.predict_proba(pictures(2)).shape == (2, 3)


@pytest.mark.parametrize(
    "backbone",
    [
        "timm/hf-hub:somebody/model",
        "timm/hf_hub:somebody/model",
        "timm/HF-HUB:somebody/model",
        "timm/local-dir:{bait}",
        "timm/LOCAL-DIR:{bait}",
        "timm/local-dir:../bait",
        "timm/{bait}",
        "timm/resnet18.hf-hub:somebody/model",
        "torchvision/{bait}",
        "torchvision/hf-hub:somebody/model",
        "efficientnet_lite/hf-hub:somebody/model",
        "efficientnet_lite/local-dir:{bait}",
        "hf-hub:somebody/model",
        "{bait}",
        "https://somebody.example/model",
        "timm/https://somebody.example/model",
        "timm/",
        "/",
        "\x1b]0;title\x07/x",
    ],
)
def test_a_description_reaches_no_hub_and_no_folder(copied, tmp_path, backbone, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    bait = tmp_path / "bait"
    bait.mkdir()
    (bait / "config.json").write_text('{"architecture": "test_resnet"}')
    for architecture in ({}, {"model": backbone.format(bait=bait), "config": {}, "arguments": {}}):
        edit(copied, backbone=backbone.format(bait=bait), architecture=architecture)
        with watched() as seen, pytest.raises((BundleError, UnknownNameError)):
            bundle.load(copied)
        assert seen.network == []
        assert not [name for name in seen.files if "bait" in name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "hf-hub:somebody/model"}, "timm doesn't know"),
        ({"model": "../bait"}, "timm doesn't know"),
        ({"model": None}, "timm doesn't know"),
        ({"config": {"file": "/etc/passwd"}}, "config.'file'"),
        ({"config": {"hf_hub_id": "somebody/model"}}, "hf_hub_id"),
        ({"config": {"url": "https://somebody.example"}}, "url"),
        ({"config": {"classifier": "../x"}}, "classifier"),
        ({"arguments": {"checkpoint_path": "bait.pth"}}, "checkpoint_path"),
        ({"arguments": {"pretrained_cfg_overlay": {"file": "bait"}}}, "pretrained_cfg_overlay"),
        ({"arguments": {"pretrained": True}}, "pretrained"),
        ({"arguments": {"cache_dir": "bait"}}, "cache_dir"),
        ({"arguments": {"embed_dim": 10**9}}, "embed_dim"),
        ({"arguments": {"act_layer": "a/b"}}, "act_layer"),
        ({"arguments": ["pretrained"]}, "no mappings"),
        ({"more": 1}, "more"),
    ],
)
def test_an_architecture_that_is_more_than_one_is_refused(from_a_folder, change, said):
    document = json.loads((from_a_folder / bundle.MANIFEST).read_text())
    edit(from_a_folder, architecture={**document["architecture"], **change})
    with watched() as seen:
        assert said in refused(from_a_folder)
    assert seen.network == []


@pytest.mark.parametrize(
    "change", [{"image_size": 10**9}, {"image_size": -1}, {"params": {"x": {"file": "/etc"}}}]
)
def test_sizes_and_params_are_bounded(copied, change):
    edit(copied, **change)
    refused(copied)
