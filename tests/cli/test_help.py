"""What the command line costs before it works, and that every command explains itself."""

from __future__ import annotations

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tlsearch.cli.app import MOVED, app

HEAVY = ("torch", "timm", "ray", "sqlalchemy", "optuna", "sklearn", "pandas")


def commands() -> list[tuple[str, ...]]:
    found = []
    for name, command in get_command(app).commands.items():
        found.append((name,))
        found += [(name, inner) for inner in getattr(command, "commands", {})]
    return found


@pytest.mark.parametrize("command", [(), *commands()], ids=" ".join)
def test_every_command_has_help(place, command):
    text = place.here(*command, "--help").stdout
    assert text.startswith("Usage: tlsearch")
    assert len(text.splitlines()) > 5


@pytest.mark.parametrize("group", [(), ("plugins",), ("study",), ("cluster",), ("db",)], ids=" ".join)
def test_no_summary_of_a_command_is_cut(group):
    told = CliRunner().invoke(app, [*group, "--help"], env={"COLUMNS": "80"}).stdout
    assert "Commands:" in told
    assert "..." not in told.partition("Commands:")[2]


def test_the_promised_commands_are_there():
    promised = (
        "init run audit show compare trials best report predict evaluate embed similar export serve distill"
    )
    promised += " distill backbones plugins study cluster db doctor dashboard look"
    assert set(promised.split()) == {command[0] for command in commands()}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_old_names_are_hidden_and_still_work_with_a_word(place, old, new):
    assert tuple(new.split()) in commands()
    done = place.here(old, "--help")
    assert done.stdout == place.here(*new.split(), "--help").stdout
    assert done.stderr == f"`tlsearch {old}` is now `tlsearch {new}`.\n"


def test_help_is_light_and_quick(place):
    assert not place.modules("--help") & set(HEAVY)
    assert place.fastest("--help") < 2.0


def test_the_version_is_told_at_once(place):
    from importlib.metadata import version

    assert place.here("--version").stdout == f"tlsearch {version('tlsearch')}\n"


def test_backbones_are_recommended_and_all_of_them_listed_when_asked_for(place):
    told = place.here("backbones").stdout
    assert "efficientnet_lite/lite0\n" in told
    assert len(told.splitlines()) < 40
    assert max(map(len, told.splitlines())) <= 80
    recommended = {one["name"] for one in place.ask("backbones")}
    every = place.ask("backbones", "--all")
    assert recommended <= set(every)
    assert len(every) > 1000
    assert all("resnet18" in name for name in place.ask("backbones", "resnet18"))
