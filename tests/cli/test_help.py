"""What the command line costs before it works, and that every command explains itself."""

from __future__ import annotations

import pytest
from typer.main import get_command

from tlsearch.cli.app import app

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


def test_the_promised_commands_are_there():
    promised = "run submit jobs logs stop studies trials show best predict evaluate plugins backbones"
    promised += " strategies datasets db doctor"
    assert set(promised.split()) <= {command[0] for command in commands()}


def test_help_is_light_and_quick(place):
    assert not place.modules("--help") & set(HEAVY)
    assert place.fastest("--help") < 2.0
