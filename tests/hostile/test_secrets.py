"""A password in the database's URL, and names full of SQL: through a whole search on a real PostgreSQL."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.conftest import Place
from tests.database.conftest import run_postgresql
from tests.hostile.conftest import TINY

SECRET = "s3cr" + "et-of-ann"  # in two, so that no traceback's source line holds it
CLASSES = {"disc": "'; DROP TABLE trials; --", "frame": 'a"b\\c % {x} $(touch canary)'}


@pytest.fixture
def there(tmp_path, images, environment) -> Iterator[Place]:
    """A place whose database asks for a password, with a Ray folder of its own and classes of odd names."""
    for name, odd in CLASSES.items():
        (tmp_path / "data" / odd).mkdir(parents=True)
        for number in range(20):
            source = images / name / f"{number:03d}.png"
            (tmp_path / "data" / odd / f"{number} ' OR 1=1 --.png").write_bytes(source.read_bytes())
    ray = tempfile.mkdtemp(prefix="tls-", dir="/tmp")  # sockets need short names
    with run_postgresql() as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE ann LOGIN SUPERUSER PASSWORD '{SECRET}'")
        rules = server.pgdata / "pg_hba.conf"
        rules.write_text("local all ann scram-sha-256\n" + rules.read_text())
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        time.sleep(0.3)
        place = server.get_uri().partition("@")[2]
        env = {
            **environment,
            "RAY_TMPDIR": ray,
            "PYTHONPATH": TINY,
            "TLSEARCH_CACHE": str(tmp_path / "cache"),
        }
        here = Place(tmp_path / "work", tmp_path / "data", env, url=f"postgresql://ann:{SECRET}@{place}")
        here.env["TLSEARCH_ARTIFACTS"] = str(here.folder / "artifacts")
        yield here
        here.end_all()
    shutil.rmtree(ray, ignore_errors=True)


def command_lines(into: set[str], over: threading.Event) -> None:
    """Collect what everybody on this machine can see of all processes."""
    while not over.wait(0.05):
        for process in psutil.process_iter(["cmdline"]):
            into.add(" ".join(process.info["cmdline"] or ()))


def files_that_tell(*folders: Path) -> list[Path]:
    """Files whose name or content holds the secret."""
    told = []
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if SECRET in str(path) or SECRET.encode() in path.read_bytes():
            told.append(path)
    return told


@pytest.mark.long
def test_a_search_on_a_server_with_a_password_and_names_full_of_sql(there):
    study = there.study(
        data={"image_size": 16},
        backbones=["tiny/net"],
        strategies=["linear_probe", "fine_tune"],
        budget={"trials": 4, "epochs": 1},
        search={"finalists": 1, "confirm_seeds": 0},
    )
    seen: set[str] = set()
    over = threading.Event()
    watching = threading.Thread(target=command_lines, args=(seen, over))
    watching.start()
    try:
        told = [there.run("run", study, "--json")]
    finally:
        over.set()
        watching.join()
    assert any("raylet" in line for line in seen), "Ray's processes were looked at"
    assert not [line for line in seen if SECRET in line]

    best = json.loads(told[0].stdout)
    picture = there.images / CLASSES["disc"] / "0 ' OR 1=1 --.png"
    asked = ["show", "tiny", "0"], ["predict", "tiny", picture], ["report", "tiny", "-o", "report.html"]
    told += [there.here(*arguments) for arguments in asked]
    told.append(there.here("run", study, "--set", "objective.metric=log_loss", code=2))
    assert not [one.args for one in told if SECRET in one.stdout + one.stderr]

    model = json.loads((Path(best["model"]["uri"]) / "bundle.json").read_text())
    assert set(model["classes"]) == set(CLASSES.values())
    assert any(name in told[2].stdout for name in CLASSES.values())
    assert not list(there.folder.parent.rglob("canary"))
    ray = Path(there.env["RAY_TMPDIR"])
    assert list(ray.rglob("raylet.out"))
    assert (there.folder / "report.html").is_file()
    assert files_that_tell(there.folder, there.folder.parent / "cache", ray) == []

    with psycopg.connect(there.url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert {"studies", "trials", "models"} <= {name for (name,) in tables}
        for (name,) in tables:
            rows = connection.execute(f'SELECT t::text FROM "{name}" t').fetchall()
            assert not [row for (row,) in rows if SECRET in row]


def test_a_traceback_of_a_bug_does_not_tell_the_password(there):
    """What Python prints where something unforeseen happens while the database is open."""
    code = (
        "import os\n"
        "from tlsearch.database.store import Store\n"
        "with Store.open(os.environ['TLSEARCH_DB'], create=True) as store:\n"
        "    print(store, vars(store), store._database, vars(store._database))\n"
        "    store._database.write(lambda connection: connection.exec_driver_sql('SELECT no_such_column'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=there.env, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no_such_column" in done.stderr
    assert SECRET not in done.stdout + done.stderr
