"""What timm can't hold is refused with the trial that it can, which the command that is told exports."""

from __future__ import annotations

import re
import shlex

import pytest
import timm
import torch
from ruamel.yaml import YAML


@pytest.fixture
def searched(place):
    """A study whose model averages two networks."""
    study = {
        "study": "pictures",
        "data": {"source": "folder", "path": str(place.images), "image_size": 32},
        "backbones": [{"name": "timm/test_resnet", "weights": "random"}],
        "strategies": ["fine_tune"],
        "budget": {"trials": 2, "epochs": 1},
        "search": {"finalists": 1, "confirm_seeds": 0, "members": 2},
    }
    with (place.folder / "study.yaml").open("w") as file:
        YAML(typ="safe").dump(study, file)
    place.here("run", "study.yaml")
    return place


@pytest.mark.slow
def test_an_average_names_the_trial_that_timm_can_hold_and_the_command_for_it(searched):
    said = searched.refused("export", "pictures", "--format", "timm", "-o", "m")
    assert "averages 2 networks" in said
    assert not (searched.folder / "m").exists()
    found = re.search(r"The best trial that timm can load is (\d+) \(fine_tune, .*`tlsearch (.*)`", said)
    assert found, said
    told = searched.here(*shlex.split(found[2])).stderr
    assert f"Trial {found[1]} isn't the model of pictures" in told
    searched_for = [trial for trial in searched.ask("trials", "pictures") if trial["role"] == "search"]
    best = max(searched_for, key=lambda trial: (trial["value"], -trial["number"]))
    assert best["number"] == int(found[1])
    network = timm.create_model(f"local-dir:{searched.folder / 'm'}", pretrained=True).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    # The Hugging Face folder holds the average as a bundle, and that is said.
    told = searched.here("export", "pictures", "--format", "huggingface", "-o", "hub").stderr
    assert "timm can't load this model, so a bundle is written" in told
    assert f"--trial {found[1]}" in told
    assert "no trial 99" in searched.refused(
        "export", "pictures", "--format", "timm", "-o", "n", "--trial", "99"
    ).lower().replace('"', "")
