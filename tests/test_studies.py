"""Every shipped study file is valid: it parses, its names are installed, its ranges resolve."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlsearch import registry, spec
from tlsearch.search.plugin_choice import resolve_strategies
from tlsearch.search.space import build

FILES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))


def test_there_are_studies():
    assert any(path.stem == "quickstart" for path in FILES)
    names = [spec.load(path).study for path in FILES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_study_is_valid(path):
    study = spec.load(path)
    strategies, skipped = resolve_strategies(study)
    assert strategies
    assert not skipped
    for section in filter(None, (study.data, study.source_data)):
        registry.dataset(section.source).options.model_validate(section.options)
    infos = [
        registry.backbone(b.name, weights="random", image_size=study.data.image_size).info
        for b in study.backbones
    ]
    space = build(strategies, infos, study.space)
    assert len(space.branches) == len(strategies) * len(infos)
