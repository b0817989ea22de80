from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tlsearch
from tlsearch import contracts, errors

HEAVY = ("torch", "ray", "timm", "torchvision", "sklearn", "optuna", "sqlalchemy", "pandas", "scipy")


def fresh(code: str) -> Any:
    """What code prints, as JSON, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    return json.loads(done.stdout)


def test_the_package_exports_three_verbs_and_an_estimator():
    assert tlsearch.__all__ == [
        *("TransferSearchClassifier", "TransferSearchMultilabel", "TransferSearchRegressor"),
        *("load", "open", "run"),
    ]
    for name in tlsearch.__all__:
        assert (getattr(tlsearch, name).__doc__ or "").strip()


def test_what_a_plugin_author_needs_is_in_contracts():
    assert {
        *("API_VERSION", "Backbone", "BackboneFamily", "BackboneInfo", "Batch", "DatasetOptions"),
        *("DatasetSource", "FineTuning", "HeadStrategy", "InputSpec", "Pretrained", "Samples", "Strategy"),
    } <= set(contracts.__all__)
    assert contracts.__all__ == sorted(contracts.__all__)
    for name in contracts.__all__:
        assert getattr(contracts, name) is not None


@pytest.mark.parametrize("module", ["tlsearch", "tlsearch.errors", "tlsearch.spec", "tlsearch.registry"])
def test_names_cost_nothing_to_import(module):
    loaded = fresh(f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))")
    assert [name for name in HEAVY if name in loaded] == []


def test_listing_plugins_imports_none_of_them():
    code = (
        "import sys, json; from tlsearch import registry; [registry.installed(g) for g in registry.GROUPS];"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert [name for name in HEAVY if name in fresh(code)] == []


def test_every_error_has_a_place_in_the_tree_and_an_exit_code():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.exit_code == (2 if issubclass(kind, errors.InputError) else 1)


def test_errors_travel_between_processes():
    import pickle

    error = errors.SpecError("wrong", hint="do this")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.hint) == (errors.SpecError, "wrong\ndo this", "do this")


def test_a_study_may_be_a_path_a_mapping_or_a_spec(tmp_path):
    # Wrong in the same way each time: nothing is run.
    data = {"study": "a", "data": {"source": "no_such_source"}, "backbones": ["timm/x"]}
    path = tmp_path / "a.yaml"
    path.write_text(json.dumps(data))
    from tlsearch.spec import parse

    for study in (data, path, str(path), parse(data)):
        with pytest.raises(errors.UnknownNameError, match="no_such_source"):
            tlsearch.run(study, db=f"sqlite:///{tmp_path}/a.db")
    assert not (tmp_path / "a.db").exists()


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(errors.BundleError, match="not a model bundle"):
        tlsearch.load(tmp_path)
    with pytest.raises(errors.SpecError, match="no study file"):
        tlsearch.run(tmp_path / "none.yaml")
    with pytest.raises(errors.DatabaseError):
        tlsearch.open(f"sqlite:///{tmp_path}/none.db").best("a")
    assert list(Path(tmp_path).iterdir()) == []
