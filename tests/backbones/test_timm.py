"""timm's models: trunks, groups, sizes, and weights from files, the hub's cache, and no network at all."""

from __future__ import annotations

import os
import pickle
import time

import pytest
import timm
import torch
from safetensors.torch import save_file

from tlsearch.backbones.timm import TimmBackbones
from tlsearch.errors import InputError, UnknownNameError, WeightsError

TINY = "test_resnet"


def load(variant, *, weights="random", image_size=64):
    return TimmBackbones().load(variant, weights=weights, image_size=image_size)


def first_runs(trunk, groups, batch):
    """Indices of the groups in the order in which their modules first run."""
    owner = {name: index for index, names in enumerate(groups) for name in names}
    seen = []
    for prefix, module in trunk.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            if prefix:
                index = owner[f"{prefix}.{name}"]
                module.register_forward_pre_hook(lambda *_, index=index: seen.append(index))
                break
    with torch.no_grad():
        trunk(batch)
    return list(dict.fromkeys(seen))


@pytest.mark.parametrize(
    ("variant", "width", "groups", "first", "last"),
    [
        ("tf_efficientnet_lite0", 1280, 17, "conv_stem+bn1", "blocks.6.0+conv_head+bn2"),
        ("resnet18", 512, 9, "conv1+bn1", "layer4.1"),
        ("convnext_atto", 320, 14, "stem", "head"),
        ("vit_tiny_patch16_224", 192, 13, "cls_token+pos_embed+patch_embed", "blocks.11+norm"),
        ("mobilenetv3_small_050", 1024, 14, "conv_stem+bn1", "conv_head"),  # its head has a hidden layer
        ("poolformer_s12", 512, 16, "stem", "stages.3.blocks.1+head"),  # timm has no groups for it
        ("swin_tiny_patch4_window7_224", 768, 13, "patch_embed", "layers.3.blocks.1+norm"),
    ],
)
def test_trunk_puts_out_features_and_groups_run_from_the_input_on(variant, width, groups, first, last):
    loaded = load(variant)
    info, trunk = loaded.info, loaded.trunk
    batch = info.inputs.to_model(info.inputs.example(2))
    with torch.no_grad():
        assert trunk(batch).shape == (2, width)
    assert info.width == width
    assert info.inputs.shape == (3, 64, 64)
    assert info.inputs.crop == 1.0
    assert (len(info.groups), info.group_names[0], info.group_names[-1]) == (groups, first, last)
    assert sorted(sum(info.groups, ())) == sorted(name for name, _ in trunk.named_parameters())
    assert first_runs(trunk, info.groups, batch) == list(range(groups))
    assert loaded.source_head is None  # random weights have learned no classes


def test_operations_and_preprocessing_are_the_models_own():
    info = load("tf_efficientnet_lite0", image_size=None).info
    assert info.inputs.size == 224
    assert info.inputs.mean == info.inputs.std == (0.5, 0.5, 0.5)
    assert info.inputs.interpolation == "bicubic"
    assert info.flops == pytest.approx(2 * 0.39e9, rel=0.05)  # 407 M multiply-adds with the classifier
    assert info.head == "classifier"


def test_random_weights_are_the_same_everywhere_and_leave_the_callers_random_state():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = load(TINY).info.weights_sha256
    assert torch.equal(torch.rand(1), expected)
    assert load(TINY).info.weights_sha256 == first


@pytest.mark.parametrize("ending", ["safetensors", "pth", "bin"])
def test_weights_from_a_file(tmp_path, ending):
    model = timm.create_model(TINY).eval()
    path = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file(model.state_dict(), path)
    else:  # as a training script leaves them
        wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save({"state_dict": wrapped, "epoch": 3}, path)
    loaded = load(TINY, weights=str(path))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.source_head(loaded.trunk(images)), model(images))
    assert "state_dict" not in loaded.trunk.pretrained_cfg


@pytest.mark.parametrize("classes", [0, 5])
def test_a_classifier_of_another_size_or_none_is_no_matter(tmp_path, classes):
    model = timm.create_model(TINY, num_classes=classes).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    loaded = load(TINY, weights=str(tmp_path / "weights.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.trunk(images), model.forward_head(model.forward_features(images), True)
        )
    assert (loaded.source_head is None) == (classes == 0)


def test_position_embeddings_follow_the_image_size(tmp_path):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    loaded = load("test_vit", weights=str(tmp_path / "vit.safetensors"), image_size=96)
    assert loaded.info.inputs.size == 96
    assert loaded.source_head is not None


def test_a_file_of_another_model_is_refused_by_name(tmp_path):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match=r"missing \(conv1|missing \(stem") as caught:
        load(TINY, weights=str(tmp_path / "vit.safetensors"))
    assert "unexpected (blocks.0." in str(caught.value)


def test_a_file_with_a_part_missing_is_refused(tmp_path):
    state = timm.create_model(TINY).state_dict()
    lost = next(name for name in state if name.startswith("layer2"))
    del state[lost]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=lost):
        load(TINY, weights=str(tmp_path / "weights.safetensors"))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("plain", [True, False])
def test_a_malicious_checkpoint_runs_nothing(tmp_path, plain):
    trap, path = tmp_path / "trap", tmp_path / "weights.pth"
    if plain:
        path.write_bytes(pickle.dumps(Bomb(str(trap)), protocol=2))
    else:
        torch.save({"state_dict": Bomb(str(trap))}, path)
    with pytest.raises(WeightsError, match="could run code"):
        load(TINY, weights=str(path))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [("a.safetensors", b"no"), ("a.pth", b""), ("b.pth", b"\x80\x02."), ("c.pth", b"PK\x03\x04")],
)
def test_a_broken_file_is_a_weights_error(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError):
        load(TINY, weights=str(tmp_path / file))


def test_a_checkpoint_without_tensors_is_a_weights_error(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        load(TINY, weights=str(tmp_path / "weights.pth"))


def test_a_misspelt_word_for_weights_is_explained():
    with pytest.raises(WeightsError, match='Did you mean "pretrained"') as caught:
        load(TINY, weights="pretraned")
    assert "safetensors" in str(caught.value.hint)


def test_no_network_is_told_in_seconds(tmp_path, monkeypatch):
    # Resolves to nothing anywhere, so that this holds on a machine with a network as well.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "tlsearch.backbones.timm.HfApi",
        lambda: __import__("huggingface_hub").HfApi(endpoint="https://hub.invalid"),
    )
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"timm/resnet18\.a1_in1k") as caught:
        load("resnet18.a1_in1k", weights="pretrained")
    assert time.monotonic() - start < 30
    for way_out in ("weights: path", "local-dir:", "HF_HUB_OFFLINE", "tlsearch-efficientnet-lite"):
        assert way_out in caught.value.hint


def test_cached_weights_need_no_network(tmp_path, monkeypatch):
    model = timm.create_model(TINY).eval()
    repository = tmp_path / f"models--timm--{TINY}.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = load(TINY, weights="pretrained")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.source_head(loaded.trunk(images)), model(images))


def test_weights_from_a_folder(tmp_path):
    model = timm.create_model(TINY, num_classes=3)
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = load(f"local-dir:{tmp_path}", weights="pretrained")
    assert loaded.source_head(torch.zeros(1, loaded.info.width)).shape == (1, 3)
    with pytest.raises(WeightsError, match=r"config\.json"):
        load("local-dir:/nowhere", weights="pretrained")


def test_weights_that_timm_does_not_publish():
    with pytest.raises(WeightsError, match="publishes no weights"):
        load("coatnet_0_224", weights="pretrained", image_size=None)


@pytest.mark.parametrize(
    ("variant", "meant"), [("reznet18", "resnet18"), ("resnet18.a1_in1", "resnet18.a1_in1k")]
)
def test_an_unknown_name_is_guessed_at(variant, meant):
    with pytest.raises(UnknownNameError, match=f'Did you mean "timm/{meant}"') as caught:
        load(variant)
    assert "tlsearch backbones" in caught.value.hint


def test_a_size_that_the_model_cannot_take_is_named():
    with pytest.raises(InputError, match=r"test_vit can't take images of 8 x 8") as caught:
        load("test_vit", image_size=8)
    assert "160" in caught.value.hint


def test_names_are_models_and_tags_that_can_take_a_head():
    names = TimmBackbones().names()
    assert {"resnet18", "resnet18.a1_in1k", "vit_tiny_patch16_224"} <= set(names)
    assert not [name for name in names if "_enc" in name.partition(".")[0][-4:]]
