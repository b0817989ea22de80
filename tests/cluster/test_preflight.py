"""What a node finds out about itself, and what is made of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlsearch.cluster import examine, preflight
from tlsearch.cluster.examine import Found, Needs
from tlsearch.cluster.nodes import Node, unfit
from tlsearch.registry import BACKBONES, DATASETS, STRATEGIES
from tlsearch.spec import StudySpec, parse

PLUGINS = ((STRATEGIES, "linear_probe"), (BACKBONES, "efficientnet_lite"), (DATASETS, "folder"))


def study(images: Path, **changes: Any) -> StudySpec:
    return parse(
        {
            "study": "s",
            "data": {"source": "folder", "path": str(images), "image_size": 32},
            "backbones": [{"name": "efficientnet_lite/lite0", "weights": "random"}],
            "strategies": ["linear_probe"],
            **changes,
        }
    )


def node(name: str, *, cpus: float = 1, gpus: float = 0) -> Node:
    return Node(id=name, name=name, cpus=cpus, gpus=gpus, memory=2**33, accelerator="")


def test_a_node_that_has_all_leaves_its_note(images: Path, tmp_path: Path) -> None:
    found = examine.examine(Needs(study(images), PLUGINS, str(tmp_path / "meeting")), "w1")
    assert found.problems == []
    assert {"python", "tlsearch", "torch", "tlsearch-efficientnet-lite"} <= set(found.packages)
    assert (tmp_path / "meeting" / "w1.txt").read_text() == "w1"


def test_all_that_a_node_lacks_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "meeting").write_text("a file where a folder should be")
    lost = study(
        tmp_path / "nowhere",
        backbones=[{"name": "timm/resnet18", "weights": str(tmp_path / "w.safetensors")}],
    )
    needs = Needs(lost, ((STRATEGIES, "lorra"),), str(tmp_path / "meeting"))
    problems = [problem for problem, _ in examine.examine(needs, "w1").problems]
    for word in ("lorra", "w.safetensors", "nowhere", "artifact store can't be written to"):
        assert any(word in problem for problem in problems), (word, problems)
    assert len(problems) == 4


def test_packages_that_differ_are_named_with_both_versions() -> None:
    mine = Found({"torch": "2.14.1", "tlsearch-lora": "0.2.0", "timm": "1.0"})
    theirs = Found({"torch": "2.14.1", "tlsearch-lora": "0.1.0"})
    old, missing = map(str, preflight._other_packages(node("w2"), theirs, mine))
    assert old == (
        "w2: it has tlsearch-lora 0.1.0, the driver's node 0.2.0. Install tlsearch-lora 0.2.0 on it."
    )
    assert "timm not installed" in missing


def test_resources_must_be_on_one_node(images: Path) -> None:
    asked = study(images, resources={"cpus_per_trial": 2, "gpus_per_trial": 0.5})
    (failure,) = unfit(asked, [node("w1", cpus=4), node("w2", cpus=1, gpus=1)])
    assert "w1 has 4 CPUs and 0 GPUs; w2 has 1 CPUs and 1 GPUs" in str(failure)
    assert unfit(asked, [node("w1", cpus=4), node("w3", cpus=2, gpus=1)]) == []


def test_the_largest_batch_that_a_study_may_ask_for_is_tried(images: Path) -> None:
    wide = study(images, space={"fine_tune.batch_size": [16, 48]})
    assert examine.try_batch(wide, "efficientnet_lite/lite0", cuda=False) == (48, 48)
