from __future__ import annotations

import contextlib
import copy
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tlsearch import spec
from tlsearch.cli.search import read_settings
from tlsearch.errors import InputError, SpecError
from tlsearch.spec import StudySpec, json_schema, load, parse

MINIMAL = {"study": "flowers", "data": {"source": "digits"}, "backbones": ["timm/resnet18"]}
WHOLE = """\
study: flowers
data:
  source: folder
  path: images
  split: {val: 0.2, test: 0.1, stop: 0.05}
  image_size: 64
source_data: {source: folder, path: ~/more}
backbones:
  - efficientnet_lite/lite0
  - name: timm/resnet18
    weights: weights/own.safetensors
  - {name: timm/resnet34, weights: random}
strategies: [linear_probe, fine_tune]
space:
  fine_tune.learning_rate: {low: 1e-5, high: 1e-2, log: true}
  fine_tune.freeze_depth: [0.0, 0.5]
  "*.augmentation": none
objective: {metric: log_loss}
budget: {trials: 10, minutes: 1.5, epochs: 3}
resources: {cpus_per_trial: 2, gpus_per_trial: 0.5}
search: {sampler: random, finalists: 2}
seed: 7
"""


def write(folder: Path, text: str, name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    """What is said of a file that is refused."""
    with pytest.raises(SpecError) as caught:
        load(write(folder, text))
    assert caught.value.exit_code == 2
    return str(caught.value)


def changed(text: str) -> str:
    """A minimal study file with other lines behind its three."""
    return f"study: flowers\ndata: {{source: digits}}\nbackbones: [timm/resnet18]\n{text}\n"


def test_a_minimal_study_has_defaults():
    study = parse(MINIMAL)
    assert study.backbones[0].name == "timm/resnet18"
    assert study.backbones[0].weights == "pretrained"
    assert study.strategies is None
    assert (study.budget.trials, study.budget.minutes) == (60, None)
    assert study.objective.metric == ""
    assert study.seed == 0


def test_a_whole_study_is_read_as_it_stands(tmp_path):
    study = load(write(tmp_path, WHOLE))
    assert [b.name for b in study.backbones] == ["efficientnet_lite/lite0", "timm/resnet18", "timm/resnet34"]
    assert study.strategies == ("linear_probe", "fine_tune")
    assert study.space["fine_tune.learning_rate"].low == 1e-5
    assert study.space["fine_tune.freeze_depth"].choices == (0.0, 0.5)
    assert study.space["*.augmentation"].value == "none"
    assert study.objective.metric == "log_loss"
    assert study.budget.minutes == 1.5
    assert study.data.options == {"path": str(tmp_path / "images")}


def test_paths_count_from_the_file_and_not_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.chdir("/")
    study = load(write(tmp_path, WHOLE))
    assert study.data.options["path"] == str(tmp_path / "images")
    assert study.source_data is not None
    assert study.source_data.options["path"] == "/home/ann/more"
    weights = [backbone.weights for backbone in study.backbones]
    assert weights == ["pretrained", str(tmp_path / "weights/own.safetensors"), "random"]
    assert parse({**MINIMAL, "data": {"source": "folder", "path": "x"}}).data.options["path"] == "/x"
    absolute = load(write(tmp_path, WHOLE.replace("path: images", "path: /data/images")))
    assert absolute.data.options["path"] == "/data/images"


def test_a_home_that_nobody_has_is_a_mistake_in_the_file(tmp_path):
    said = refused(tmp_path, WHOLE.replace("~/more", "~nobody-here/more"))
    assert "source_data.path" in said
    assert "~nobody-here" in said


def test_plain_data_and_back(tmp_path):
    study = load(write(tmp_path, WHOLE))
    plain = study.to_json()
    assert parse(copy.deepcopy(plain)) == study
    assert parse(plain, folder=Path("/elsewhere")) == study
    assert parse(parse(MINIMAL).to_json()) == parse(MINIMAL)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**31 - 1),
            "strategies": st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True),
            "budget": st.fixed_dictionaries({"trials": st.integers(1, 10**6)}),
            "space": st.dictionaries(
                st.text(min_size=1, max_size=8),
                st.one_of(
                    st.booleans(),
                    st.integers(-(2**60), 2**60),
                    st.floats(allow_nan=False, allow_infinity=False),
                    st.text(max_size=5),
                    st.lists(st.one_of(st.integers(-9, 9), st.booleans()), min_size=1),
                ),
                max_size=3,
            ),
        },
    )
)
@settings(max_examples=60, deadline=None)
def test_any_valid_study_survives_the_database(more):
    study = parse({**MINIMAL, **more})
    again = parse(study.to_json())
    assert again == study
    for key, override in study.space.items():
        assert type(again.space[key].value) is type(override.value)


# ------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("lines", "place", "path", "meant"),
    [
        ("stategies: [fine_tune]", 4, "stategies", "strategies"),
        ("budget: {trails: 3}", 4, "budget.trails", "trials"),
        ("budget:\n  minutes: 3\n  epoch: 3", 6, "budget.epoch", "epochs"),
        ("objective: {metrik: accuracy}", 4, "objective.metrik", "metric"),
        ("search: {pruning: none}", 4, "search.pruning", "pruner"),
        ("resources: {gpu_per_trial: 1}", 4, "resources.gpu_per_trial", "gpus_per_trial"),
        (
            "space:\n  fine_tune.dropout: {lo: 0.1}",
            5,
            "space.fine_tune.dropout.lo",
            "low",
        ),
        ("source_data:\n  source: digits\n  split:\n    tets: 0.1", 7, "source_data.split.tets", "test"),
    ],
)
def test_a_misspelt_key_is_named_with_its_line(tmp_path, lines, place, path, meant):
    said = refused(tmp_path, changed(lines))
    assert f'study.yaml:{place}: {path}: unknown key. Did you mean "{meant}"?' in said


def test_names_with_commas_between_them_are_a_list(tmp_path):
    study = load(write(tmp_path, changed("strategies: linear_probe, fine_tune")))
    assert study.strategies == ("linear_probe", "fine_tune")
    words = ["strategies=lora,fine_tune", "backbones=timm/a, timm/b", "space.*.augmentation=none,flip"]
    words += ["space.fine_tune.freeze_depth=0.0,0.5", "space.fine_tune.length=1.5"]
    study = parse(MINIMAL, overrides=read_settings(words))
    assert study.strategies == ("lora", "fine_tune")
    assert [one.name for one in study.backbones] == ["timm/a", "timm/b"]
    assert study.space["*.augmentation"].choices == ("none", "flip")
    assert study.space["fine_tune.freeze_depth"].choices == (0.0, 0.5)
    assert study.space["fine_tune.length"].value == 1.5
    with pytest.raises(InputError, match=r"not valid YAML") as told:
        read_settings(["strategies=[lora"])
    assert "[a, b]" in str(told.value)


def test_a_misspelt_key_of_a_backbone(tmp_path):
    backbones = "\n  - {name: timm/a}\n  - {name: timm/b, wieghts: random}"
    text = f"study: a\ndata: {{source: digits}}\nbackbones:{backbones}\n"
    assert ':5: backbones.1.wieghts: unknown key. Did you mean "weights"?' in refused(tmp_path, text)


def test_a_key_like_no_other_gets_the_list(tmp_path):
    assert "Known here: trials, minutes, epochs." in refused(tmp_path, changed("budget: {zzz: 1}"))


def test_every_mistake_is_told_at_once(tmp_path):
    said = refused(tmp_path, changed("budget: {trials: 0, epochs: -1}\nsed: 3"))
    assert said.startswith("3 mistakes in ")
    for wanted in (":4: budget.trials:", ":4: budget.epochs:", ":5: sed:"):
        assert wanted in said


@pytest.mark.parametrize("key", ["study", "data", "backbones"])
def test_a_missing_key_is_named(key):
    with pytest.raises(SpecError, match=rf"{key}: is missing"):
        parse({name: value for name, value in MINIMAL.items() if name != key})


def test_a_data_section_needs_a_source(tmp_path):
    assert ":2: data.source: is missing." in refused(tmp_path, "study: a\ndata: {}\nbackbones: [timm/a]\n")


# ----------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("space: {fine_tune.learning_rate: .nan}", "finite"),
        ("space: {fine_tune.learning_rate: .inf}", "finite"),
        ("space: {fine_tune.learning_rate: {value: -.inf}}", "finite"),
        ("space: {fine_tune.learning_rate: {low: .nan}}", "finite"),
        ("space: {fine_tune.learning_rate: {low: 1e-5, high: 1e999}}", "finite"),
        ("space: {fine_tune.learning_rate: [0.1, .nan]}", "finite"),
        ("space: {fine_tune.learning_rate: {low: '1e-5'}}", "number, got '1e-5'"),
        ("space: {fine_tune.learning_rate: {low: true}}", "number, got True"),
        ("space: {fine_tune.learning_rate: {low: 0.1, high: 0.01}}", r"low \(0.1\) is above high \(0.01\)"),
        ("space: {fine_tune.learning_rate: {low: 0, log: true}}", "above 0, not at 0"),
        ("space: {fine_tune.learning_rate: {low: -1, log: true}}", "above 0, not at -1"),
        ("space: {fine_tune.learning_rate: []}", "choices is empty"),
        ("space: {fine_tune.learning_rate: {}}", "give a range"),
        ("space: {fine_tune.learning_rate: {value: 1, low: 0}}", "give a range"),
        ("space: {fine_tune.learning_rate: {value: {a: 1}}}", "finite number"),
        ("space: {fine_tune.learning_rate: null}", "must be a section"),
        ("space: [1]", "must be a section"),
        ("budget: {trials: 0}", "greater than or equal to 1, got 0"),
        ("budget: {trials: -1}", "greater than or equal to 1, got -1"),
        ("budget: {trials: 1000000000}", "less than or equal to 1000000, got 1000000000"),
        ("budget: {trials: 1e9}", "whole number"),
        ("budget: {trials: '10'}", "whole number, got '10'"),
        ("budget: {trials: true}", "whole number, got True"),
        ("budget: {minutes: 0}", "greater than 0"),
        ("budget: {minutes: .nan}", "finite|greater|less"),
        ("budget: {minutes: .inf}", "finite|less"),
        ("budget: {epochs: 0}", "greater than or equal to 1"),
        ("budget: [60]", "must be a section"),
        ("strategies: []", "at least one item"),
        ("strategies: [3]", "must be text"),
        ("strategies: [fine_tune, linear_probe, fine_tune]", "fine_tune is listed twice"),
        ("seed: -1", "greater than or equal to 0"),
        ("seed: 1.5", "whole number"),
        ("objective: {metric: 1}", "must be text"),
        ("objective: {metric: accuracy, direction: down}", "maximize"),
        ("resources: {cpus_per_trial: 0}", "greater than or equal to 1"),
        ("resources: {gpus_per_trial: -0.5}", "greater than or equal to 0"),
        ("resources: {gpus_per_trial: 1.5}", "a trial trains on one GPU"),
        ("resources: {gpus_per_trial: 64}", "a trial trains on one GPU"),
        ("search: {sampler: bayes}", "tpe"),
        ("search: {keep: 0}", "greater than or equal to 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path, lines, said):
    with pytest.raises(SpecError, match=said) as caught:
        load(write(tmp_path, changed(lines)))
    # One mistake is one sentence, whatever the validator thinks of it.
    assert "mistakes" not in caught.value.message
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{source: digits, split: {val: 0}}", "val must be above 0"),
        ("{source: digits, split: {val: 0.5, test: 0.5}}", "leave at least 0.1"),
        ("{source: digits, split: {val: 1.0}}", "less than 1"),
        ("{source: digits, split: {val: -0.1}}", "greater than or equal to 0"),
        ("{source: digits, split: {val: .nan}}", "finite|greater|less"),
        ("{source: digits, image_size: 1}", "greater than or equal to 8"),
        ("{source: digits, image_size: 100000}", "less than or equal to 4096"),
        ("{source: 3}", "must be text"),
        ("digits", "must be a section"),
    ],
)
def test_a_wrong_data_section(tmp_path, data, said):
    text = f"study: a\ndata: {data}\nbackbones: [timm/a]\n"
    with pytest.raises(SpecError, match=rf":2: data.*({said})"):
        load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("backbones", "said"),
    [
        ("[]", "at least one item"),
        ("[resnet18]", "backbones.0"),
        ("[5]", "backbones.0"),
        ("['timm/a b']", "backbones.0"),
        ("[timm/a, timm/b, timm/a]", "timm/a is listed twice"),
        ("[timm/a, {name: timm/a, weights: random}]", "timm/a is listed twice"),
    ],
)
def test_wrong_backbones(tmp_path, backbones, said):
    assert said in refused(tmp_path, f"study: a\ndata: {{source: digits}}\nbackbones: {backbones}\n")


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/etc/passwd", "a/b", "a\\b", "..", ".hidden", "-rf", "#", ";", "a;b", "a b", "a\0b", "\0"),
        *(
            "'; DROP TABLE studies; --",
            'a"b',
            "a'b",
            "`id`",
            "$(id)",
            "a\n",
            "a\nb",
            "",
            " a",
            "a–b",
            "é b",
            "🌸",
            "\u0301a",
            "a\u202eb",
            "x" * 81,
            "名" * 54,
            "x" * 10_240,
        ),
    ],
)
def test_names_that_could_mean_something_else_are_refused(name):
    with pytest.raises(SpecError) as caught:
        parse({**MINIMAL, "study": name})
    assert "study:" in caught.value.message
    assert len(caught.value.message) < 500
    assert "\0" not in caught.value.message


@pytest.mark.parametrize(
    "name", ["a", "flowers-2.1_x", "0", "x" * 80, "a--b-", "Frühjahr", "é", "写真", "हिन्दी", "名" * 53]
)
def test_good_names(name):
    assert parse({**MINIMAL, "study": name}).study == name
    assert Draft202012Validator(json_schema()).is_valid({**MINIMAL, "study": name})


def test_a_name_is_one_however_its_accents_are_typed():
    assert parse({**MINIMAL, "study": unicodedata.normalize("NFD", "Frühjahr")}).study == "Frühjahr"


def test_a_file_in_another_encoding_is_told_so(tmp_path):
    (tmp_path / "s.yaml").write_text("study: a", encoding="utf-16")
    with pytest.raises(SpecError, match=r"isn't text in UTF-8\.\nSave it as UTF-8"):
        load(tmp_path / "s.yaml")


# ------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a study file is a mapping"),
        ("# nothing\n", "a study file is a mapping"),
        ("- a\n- b\n", "a study file is a mapping"),
        ("flowers\n", "a study file is a mapping"),
        ("study: a\nstudy: b\n", ":2: .*duplicate key"),
        (changed("budget:\n  trials: 1\n  trials: 2"), ":6: .*duplicate key"),
        (changed("x: !!python/object/apply:os.system [touch /tmp/canary]"), ":4: .*not a YAML file"),
        (changed("x: !!python/name:os.system"), ":4: "),
        (changed("x: !own 3"), ":4: "),
        (changed("x: !!bool maybe"), "not a YAML file"),
        (changed("x: !!int ten"), "not a YAML file"),
        (changed("x: !!timestamp soon"), "not a YAML file"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", r":2: aliases \(\*a\) are not taken"),
        ("a: &a [*a]\n", "aliases"),
        ("base: &b {trials: 3}\nbudget:\n  <<: *b\n", "aliases"),
        ("a: [1, 2\n", "not a YAML file"),
        ("a: b: c\n", ":1: not a YAML file"),
        ("a: 1\n---\nb: 2\n", "not a YAML file"),
        ("a:\n\t- 1\n", "not a YAML file"),
        ("a: \x01\n", "not a YAML file|unacceptable"),
        ("[" * 90_000, ":1: is nested more than 50 levels deep"),
        ("{a: " * 90, "nested more than"),
        ("- " * 90, "nested more than"),
        (changed("2020-01-01: 5"), "not what a study file holds"),
        (changed("? [a, b]\n: 5"), "not what a study file holds"),
        (changed(f"seed: 0x{'f' * 6000}"), "not what a study file holds"),
        (changed(f"seed: {'9' * 6000}"), "not a YAML file"),
    ],
)
def test_files_that_are_no_study(tmp_path, text, said):
    with pytest.raises(SpecError, match=said):
        load(write(tmp_path, text))


def test_an_alias_bomb_and_a_huge_file_are_refused_at_once(tmp_path):
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "aliases" in refused(tmp_path, "\n".join(bomb))
    assert "over 100,000 bytes" in refused(tmp_path, "study: a\n" + "# padding\n" * 20_000)
    many = ", ".join(["timm/a"] * 10_000)
    assert "listed twice" in refused(tmp_path, f"study: a\ndata: {{source: d}}\nbackbones: [{many}]\n")


def test_files_that_cannot_be_read(tmp_path):
    write(tmp_path, WHOLE, "flowers.yaml")
    with pytest.raises(SpecError, match="no study file") as caught:
        load(tmp_path / "flower.yaml")
    assert "flowers.yaml" in str(caught.value)
    with pytest.raises(SpecError, match="no study file"):
        load(tmp_path / "none" / "flower.yaml")
    with pytest.raises(SpecError, match="Can't read"):
        load(tmp_path)
    with pytest.raises(SpecError, match="Can't read"):
        load(Path("a\0b.yaml"))
    with pytest.raises(SpecError, match="Can't read"):
        load(tmp_path / ("x" * 5000))
    (tmp_path / "latin.yaml").write_bytes("study: é\n".encode("latin-1"))
    with pytest.raises(SpecError, match="Can't read"):
        load(tmp_path / "latin.yaml")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "study.yaml").write_bytes(b"\xef\xbb\xbf" + changed("seed: 3").replace("\n", "\r\n").encode())
    assert load(tmp_path / "study.yaml").seed == 3


# -------------------------------------------------------------------------------- overrides


def test_overrides_replace_what_the_file_says(tmp_path):
    study = load(
        write(tmp_path, WHOLE),
        overrides={
            "budget.trials": 3,
            "seed": 9,
            "space.fine_tune.learning_rate": {"low": 1e-4},
            "space.fine_tune.dropout": 0.1,
            "data.split.val": 0.3,
            "strategies": ["fine_tune"],
            "search.keep": 2,
        },
    )
    assert (study.budget.trials, study.budget.minutes, study.budget.epochs) == (3, 1.5, 3)
    assert study.seed == 9
    assert study.space["fine_tune.learning_rate"] == spec.Override(low=1e-4)
    assert study.space["fine_tune.dropout"].value == 0.1
    assert study.space["*.augmentation"].value == "none"
    assert (study.data.split.val, study.data.split.test) == (0.3, 0.1)
    assert study.strategies == ("fine_tune",)
    assert study.search.keep == 2


def test_overrides_make_sections_that_are_missing_or_empty(tmp_path):
    path = write(tmp_path, changed("budget:\nspace:"))
    study = load(path, overrides={"budget.trials": 2, "space.fine_tune.dropout": 0.1, "search.keep": 2})
    assert (study.budget.trials, study.search.keep) == (2, 2)
    assert study.space["fine_tune.dropout"].value == 0.1


def test_overrides_leave_the_callers_data_alone():
    given = copy.deepcopy(MINIMAL)
    parse(given, overrides={"data.split.val": 0.2, "budget.trials": 3})
    assert given == MINIMAL


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("budget.trails", 3, 'budget.trails: unknown key. Did you mean "trials"'),
        ("budget.trials", float("nan"), "whole number"),
        ("seed.x", 3, "Can't set seed.x"),
        ("study.x.y", 3, "Can't set study.x.y"),
        ("backbones.0", 3, "Can't set backbones.0"),
        ("", 3, "unknown key"),
        ("a." * 5000, 3, "not what a study file holds|unknown key"),
    ],
)
def test_wrong_overrides(key, value, said):
    with pytest.raises(SpecError, match=said):
        parse({**MINIMAL, "seed": 1}, overrides={key: value})


def test_unknown_options_of_a_source_get_a_suggestion():
    assert 'Did you mean "split"' in spec.unknown_option("splitt", ["path"])
    assert 'Did you mean "path"' in spec.unknown_option("paths", ["path"])
    assert "Known here: path" in spec.unknown_option("zzzz", ["path"])


# ----------------------------------------------------------------------------------- fuzzing

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([4999]).map(lambda digits: 10**digits),
    st.floats(),
    st.text(max_size=20),
    st.text(st.characters(), max_size=4),
    st.just("\ud800"),
    st.binary(max_size=4),
    st.dates(),
    st.sampled_from(["flowers", "timm/resnet18", "digits", "~x/y", "accuracy"]),
)
keys = st.one_of(
    st.sampled_from([*StudySpec.model_fields, "val", "trials", "low", "value", "name", "path", "x.y"]),
    st.text(max_size=5),
    st.integers(),
    st.none(),
    st.dates(),
    st.just("\ud800"),
)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4), st.tuples(inner)
    ),
    max_leaves=12,
)


@given(anything)
@settings(max_examples=150, deadline=None)
def test_only_spec_errors_come_out_of_parse(data):
    try:
        study = parse(data)
    except SpecError:
        return
    assert isinstance(study, StudySpec)


@given(st.dictionaries(st.sampled_from([*StudySpec.model_fields]), anything, max_size=3), anything)
@settings(max_examples=150, deadline=None)
def test_only_spec_errors_come_out_of_almost_valid_data(changes, override):
    try:
        study = parse({**MINIMAL, **changes}, overrides={"budget.trials": override})
    except SpecError:
        return
    assert parse(study.to_json()) == study


YAML_PIECES = [
    *(
        "study: a\n",
        "data: {source: digits}\n",
        "backbones: [timm/a]\n",
        "budget:\n",
        "  trials: ",
        "- ",
        "? ",
    ),
    *(
        ": ",
        "\n",
        "!!set ",
        "!!omap ",
        "!!binary ",
        "!!float ",
        "!!null ",
        "!x ",
        "&a ",
        "*a",
        "<<: ",
        "{",
        "}",
    ),
    *(
        "[",
        "]",
        "|\n",
        ">-\n",
        "'",
        '"',
        "\\",
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "1e-5",
        "0o7",
        "0x",
        ".nan",
        "~",
    ),
    *("2020-01-01", "2020-13-45", "12:30:45", "yes", "\t", "#", "é", "\x85", "\ufeff", '"\\ud800"', '"\\0"'),
]


@given(st.lists(st.one_of(st.sampled_from(YAML_PIECES), st.text(max_size=3)), max_size=14))
@settings(max_examples=300, deadline=None)
def test_only_spec_errors_come_out_of_files(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text("".join(pieces), encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(SpecError):
        load(path)


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_only_spec_errors_come_out_of_bytes(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        load(path)


def test_values_of_python_callers():
    import numpy as np

    parsed = parse(
        {
            "study": "s",
            "data": {"source": "folder", "path": Path("x")},
            "backbones": "timm/resnet18",
            "strategies": "linear_probe",
            "budget": {"trials": np.int64(2), "minutes": np.float32(0.5)},
            "seed": np.uint8(3),
        }
    )
    assert parsed.strategies == ("linear_probe",)
    assert [backbone.name for backbone in parsed.backbones] == ["timm/resnet18"]
    assert (parsed.budget.trials, parsed.budget.minutes, parsed.seed) == (2, 0.5, 3)


def test_a_value_that_was_set_is_not_blamed_on_the_file(tmp_path):
    path = write(tmp_path, "study: a\ndata: {source: digits}\nbackbones: [timm/a]\nbudget: {trials: 3}\n")
    for overrides in (
        {"data.split.val": 2},
        {"data.split": {"val": 2}},
        {"data": {"source": "x", "split": 3}},
    ):
        with pytest.raises(SpecError, match=r"^set in place of what .* says: data\.split"):
            load(path, overrides=overrides)
    path.write_text(path.read_text().replace("trials: 3", "trials: 0"))
    with pytest.raises(SpecError, match=r"study\.yaml:4: budget"):
        load(path, overrides={"seed": 3})


def test_another_programs_file_is_called_so(tmp_path):
    path = write(tmp_path, "train: images/train\nval: images/val\nnc: 1\nnames: [a]\n")
    with pytest.raises(SpecError, match=r"is no study file: it has train, val, nc, names.*\n.*folder"):
        load(path)


def test_an_empty_path_is_not_the_current_folder(tmp_path):
    path = write(tmp_path, "study: a\ndata: {source: folder, path: ''}\nbackbones: [timm/a]\n")
    with pytest.raises(SpecError, match=r"data\.path: is empty"):
        load(path)
