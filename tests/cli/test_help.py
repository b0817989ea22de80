"""What the command line costs before it works, and that every command explains itself."""

from __future__ import annotations

import subprocess
import sys
import time

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


def modules_of(*arguments: str, cwd, env) -> set[str]:
    """Top-level modules that a command has imported when it ends."""
    code = (
        "import atexit, sys; sys.argv = ['tlsearch', *sys.argv[1:]]\n"
        "tops = lambda: {name.partition('.')[0] for name in sys.modules}\n"
        "atexit.register(lambda: print(*tops(), file=sys.stderr))\n"
        "from tlsearch.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=cwd, env=env
    )
    return set(done.stderr.splitlines()[-1].split())


def fastest(*arguments: str, cwd, env) -> float:
    """Of several tries, since other processes take their share."""
    took = []
    for _ in range(4):
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "tlsearch", *arguments], capture_output=True, check=True, cwd=cwd, env=env
        )
        took.append(time.monotonic() - began)
    return min(took)


@pytest.mark.parametrize("command", [(), *commands()], ids=" ".join)
def test_every_command_has_help(place, command):
    text = place.run(*command, "--help").stdout
    assert text.startswith("Usage: tlsearch")
    assert len(text.splitlines()) > 5


def test_the_promised_commands_are_there():
    promised = "run submit jobs logs stop studies trials show best predict evaluate plugins backbones"
    promised += " strategies datasets db doctor"
    assert set(promised.split()) <= {command[0] for command in commands()}


def test_help_is_light_and_quick(place):
    assert not modules_of("--help", cwd=place.folder, env=place.env) & set(HEAVY)
    assert fastest("--help", cwd=place.folder, env=place.env) < 1.0


@pytest.mark.slow
def test_best_is_light_and_quick(finished):
    loaded = modules_of("best", "tiny", "--json", cwd=finished.folder, env=finished.env)
    assert not loaded & {"torch", "timm", "ray", "optuna", "sklearn", "pandas"}
    assert fastest("best", "tiny", cwd=finished.folder, env=finished.env) < 2.0
