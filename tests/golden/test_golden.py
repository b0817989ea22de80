"""What must stay while the structure changes: identities exactly, scores and predictions but for rounding.

Another fingerprint or key makes every stored study and cache entry foreign; another split or score makes old
studies impossible to go on with. Whoever changes one of these on purpose writes the values anew:
``python -m tests.golden.write``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden import values

HERE = Path(__file__).parent
KNOWN = json.loads((HERE / "values.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    # As JSON holds it: tuples are lists, keys are texts.
    return json.loads(json.dumps(values.found(tmp_path_factory.mktemp("golden"))))


@pytest.mark.parametrize("identity", sorted(KNOWN["identities"]))
def test_identities_stay(found, identity):
    assert found["identities"][identity] == KNOWN["identities"][identity]


@pytest.mark.parametrize("trial", sorted(KNOWN["scores"]))
def test_scores_stay(found, trial):
    # Other processors add up in another order: what is near a decision may turn by an item.
    assert found["scores"][trial] == pytest.approx(KNOWN["scores"][trial], abs=2e-3)


def test_a_bundle_of_an_earlier_version_predicts_as_it_did(found):
    for one, known in zip(found["predictions"], KNOWN["predictions"], strict=True):
        assert one["label"] == known["label"]
        assert one["probabilities"] == pytest.approx(known["probabilities"], abs=1e-5)


def test_the_document_of_a_study_stays(found):
    assert found["document"] == KNOWN["document"]
