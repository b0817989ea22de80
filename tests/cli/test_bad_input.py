"""A user's mistake: exit code 2, what is wrong and what would be right, no traceback, nothing written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

PLUGIN = """
[tlsearch.{group}]
{name} = {module}
"""


def refuse(place, *arguments: object, says: tuple[str, ...], **env: str) -> str:
    """Run a command that is to be refused, and see that it left nothing."""
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    # What huggingface_hub is told by its environment it reads when it is imported: in a process of its own.
    own = "HF_HUB_OFFLINE" in env
    said = place.run(*arguments, code=2, **env).stderr if own else place.refused(*arguments, **env)
    for word in says:
        assert word in said, said
    assert {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()} == before
    assert not place.artifacts.exists()
    return said


def install(folder: Path, distribution: str, *, group: str, name: str, code: str, module: str) -> str:
    """A plugin package as pip leaves it; answers the folder for PYTHONPATH."""
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(PLUGIN.format(group=group, name=name, module=module))
    (folder / f"{module.partition(':')[0]}.py").write_text(code)
    return str(folder)


def images_of(folder: Path, images: Path, **counts: int) -> Path:
    """Class folders with so many of the images in each."""
    folder.mkdir(parents=True)
    for name, count in counts.items():
        (folder / name).mkdir()
        for path in sorted((images / name).iterdir())[:count]:
            (folder / name / path.name).write_bytes(path.read_bytes())
    return folder


MISTAKES = {
    "misspelt key": ({"budgett": {"trials": 3}}, ("budgett", "budget", "Did you mean")),
    "misspelt inner key": ({"budget": {"trails": 3}}, ("budget.trails", "trials")),
    "no trials": ({"budget": {"trials": 0}}, ("budget.trials", "0")),
    "trials in words": ({"budget": {"trials": "many"}}, ("budget.trials", "many")),
    "unknown strategy": (
        {"strategies": ["fine_tun"]},
        ("fine_tun", "fine_tune", "tlsearch plugins strategies"),
    ),
    "strategy without its data": ({"strategies": ["joint_training"]}, ("joint_training", "source_data")),
    "unknown family": ({"backbones": ["tim/resnet18"]}, ("tim", "timm", "tlsearch backbones")),
    "unknown variant": ({"backbones": ["efficientnet_lite/lite9"]}, ("lite9", "Did you mean")),
    "unknown source": ({"data": {"source": "foldr"}}, ("foldr", "folder", "tlsearch plugins datasets")),
    "unknown option": ({"data": {"pathh": "x"}}, ("pathh", "path")),
    "unknown hyperparameter": ({"space": {"fine_tune.learning_rat": 0.1}}, ("learning_rat", "learning_rate")),
    "range turned round": (
        {"space": {"fine_tune.learning_rate": {"low": 0.1, "high": 0.01}}},
        ("fine_tune.learning_rate", "0.1", "0.01"),
    ),
    "logarithm of nothing": (
        {"space": {"fine_tune.learning_rate": {"low": 0.0, "high": 0.01, "log": True}}},
        ("fine_tune.learning_rate", "0"),
    ),
    "a rate in words": ({"space": {"fine_tune.learning_rate": "fast"}}, ("fine_tune.learning_rate", "fast")),
    "a name that is a path": ({"study": "../tiny"}, ("study", "../tiny")),
}


@pytest.mark.parametrize(("changes", "says"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_in_the_study_file(place, changes, says):
    study = place.study(**{**changes, "study": "tiny"})
    if "study" in changes:
        study.write_text(study.read_text().replace("study: tiny", f"study: {changes['study']}"))
    refuse(place, "run", study, says=says)


def test_a_setting_that_is_none(place):
    study = place.study()
    refuse(place, "run", study, "--set", "budget.trials", says=("--set", "KEY=VALUE"))
    refuse(place, "run", study, "--set", "budget.trials=-3", says=("budget.trials", "-3", "set in place of"))
    refuse(place, "run", study, "--minutes", "nan", says=("--minutes",))


def test_a_study_file_that_is_not_there(place):
    place.study()
    refuse(place, "run", "tinny.yaml", says=("tinny.yaml", "tiny.yaml"))


@pytest.mark.parametrize("command", ["init", "audit", "look", "run"])
def test_data_is_a_place_on_this_machine(place, command):
    refuse(place, command, "", says=("DATA is empty",))
    said = refuse(place, command, "https://me:secret@example.org/d.zip", says=("is a URL", "Download it"))
    assert "secret" not in said
    refuse(place, command, "s3://bucket/photos", says=("s3://bucket/photos is a URL", "data.path"))


def test_a_study_file_goes_into_a_folder_that_is_there(place, images):
    refuse(place, "init", images, "-o", "nowhere/x.yaml", says=("no folder nowhere",))


def test_data_that_cannot_be_searched_on(place, images, tmp_path):
    def refuse_data(folder: Path, *says: str) -> None:
        refuse(place, "run", place.study(data={"path": str(folder)}), says=says)

    (tmp_path / "empty").mkdir()
    refuse_data(tmp_path / "empty", str(tmp_path / "empty"))
    refuse_data(tmp_path / "nowhere", str(tmp_path / "nowhere"))
    refuse_data(images_of(tmp_path / "single", images, disc=9, frame=1), "frame")
    refuse_data(images_of(tmp_path / "one", images, disc=9), "class")


@pytest.mark.parametrize(
    "command", [("studies",), ("trials", "tiny"), ("show", "tiny", "0"), ("best", "tiny")]
)
def test_a_database_that_is_not_there(place, command):
    refuse(place, *command, says=(str(place.database), "tlsearch run"))


def test_databases_that_are_none(place, tmp_path):
    study = place.study()
    corrupt, foreign, newer = (tmp_path / name for name in ("corrupt.db", "foreign.db", "newer.db"))
    corrupt.write_bytes(b"SQLite format 3\x00" + bytes(range(256)) * 40)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE trials (trial_id INTEGER PRIMARY KEY)")
    with sqlite3.connect(newer) as connection:
        connection.execute("CREATE TABLE tlsearch_alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO tlsearch_alembic_version VALUES ('9999')")
    for path, word in ((corrupt, "database"), (foreign, "trials"), (newer, "newer")):
        content = path.read_bytes()
        refuse(place, "run", study, "--db", f"sqlite:///{path}", says=(str(path), word))
        if path is not foreign:
            refuse(place, "best", "tiny", "--db", f"sqlite:///{path}", says=(str(path),))
        assert path.read_bytes() == content
    refuse(place, "run", study, "--db", f"sqlite:///{tmp_path}/none/x.db", says=(f"{tmp_path}/none",))
    refuse(place, "run", study, "--db", "sqlite:////proc/x.db", says=("/proc",))


def test_weights_that_cannot_be_had_here(place):
    study = place.study(backbones=["timm/resnet18.a1_in1k"])
    refuse(place, "run", study, says=("resnet18", "weights"), HF_HUB_OFFLINE="1")
    study = place.study(backbones=[{"name": "timm/resnet18.a1_in1k", "weights": "nowhere.pth"}])
    refuse(place, "run", study, says=("nowhere.pth",))


BROKEN = {
    "raises": "import no_such_module_of_ours\n",
    "exits": "import sys; print('noise'); sys.exit(3)\n",
    "is no strategy": "class Mine: pass\n",
}


@pytest.mark.parametrize("code", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_plugin_that_the_study_names(place, tmp_path, code):
    path = install(
        tmp_path / "site", "tls-broken", group="strategies", name="mine", code=code, module="tls_broken:Mine"
    )
    study = place.study(strategies=["mine"])
    refuse(place, "run", study, says=("mine", "tls-broken", "1.2"), PYTHONPATH=path)


def test_two_plugins_of_one_name(place, tmp_path):
    for number in ("one", "two"):
        path = install(
            tmp_path / "site",
            f"tls-{number}",
            group="strategies",
            name="mine",
            code="class Mine: pass\n",
            module=f"tls_{number}:Mine",
        )
    said = refuse(place, "run", place.study(strategies=["mine"]), says=("mine",), PYTHONPATH=path)
    assert "tls-one" in said
    assert "tls-two" in said
    assert "Uninstall" in said


@pytest.mark.slow
def test_a_broken_plugin_harms_nobody_who_does_not_name_it(place, tmp_path):
    path = install(
        tmp_path / "site",
        "tls-broken",
        group="strategies",
        name="mine",
        code=BROKEN["exits"],
        module="tls_broken:Mine",
    )
    study = place.study(
        strategies=None,
        budget={"trials": 3, "epochs": 1},
        search={"finalists": 1, "confirm_seeds": 0},
    )
    done = place.here("run", study, "--json", PYTHONPATH=path)
    assert "tls-broken" in done.stderr
    assert "noise" not in done.stdout
    listed = place.here("plugins", PYTHONPATH=path)
    assert "tls-broken" in listed.stdout
    assert "can't be" in listed.stdout
    tried = [t for t in place.ask("trials", "tiny") if not t["reason"].startswith("combined")]
    assert len(tried) == 3
