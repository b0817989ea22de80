"""What nobody foresaw ends in a sentence all the same: errors, terminals, folders, files that are none."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_study

from tlsearch import cli
from tlsearch.cli import app
from tlsearch.database.store import Store
from tlsearch.datasets.table import read_table
from tlsearch.errors import DataError, InputError
from tlsearch.files import cache_folder, scratch, temporary_folder
from tlsearch.records import StudyState


def ends(monkeypatch: pytest.MonkeyPatch, command: object) -> int:
    """The exit code of a command line whose command is this one."""
    monkeypatch.setattr(app, "app", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def broken(**_: object) -> None:
    raise KeyError("\x1b[31mwho\nwas this")


def test_an_error_that_nobody_foresaw_is_a_line_and_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ends(monkeypatch, broken) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: KeyError: ")
    assert "\x1b" not in said
    assert "Traceback" not in said
    (file,) = tmp_path.iterdir()
    assert f"in {file}:" in said
    assert "in broken" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("how", ["asked for", "no folder"])
def test_its_traceback_is_printed_where_asked_for_or_where_no_file_can_be(monkeypatch, capsys, how, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    if how == "asked for":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setenv("TLSEARCH_DEBUG", "1")
    assert ends(monkeypatch, broken) == 1
    assert "in broken" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_terminal_that_knows_ascii_alone_gets_escapes(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)

    def speaks(**_: object) -> None:
        print("Größe ─ \udcff")
        sys.exit(0)

    assert ends(monkeypatch, speaks) == 0
    out.flush()
    assert out.buffer.getvalue() == b"Gr\\xf6\\xdfe \\u2500 \\udcff\n"


@pytest.mark.parametrize("place", ["file", "file/below", "/dev/null/x", "/proc/none"])
def test_a_cache_folder_that_can_not_be_used_is_named_with_what_to_do(monkeypatch, tmp_path, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TLSEARCH_CACHE", str(tmp_path / place))
    with pytest.raises(
        InputError, match=f"cache folder {re.escape(str(tmp_path / place))} can't be used"
    ) as told:
        cache_folder()
    assert "Set TLSEARCH_CACHE" in str(told.value)


@pytest.mark.parametrize("place", ["file", "none", "/proc"])
def test_a_folder_for_temporary_files_that_can_not_be_used_is_named_with_what_to_do(
    monkeypatch, tmp_path, place
):
    """Python would silently take another one, and Ray would fail in its own words."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(os, "environ", {**os.environ, "TMPDIR": str(tmp_path / place)})
    for use in (temporary_folder, lambda: scratch("x")):
        with pytest.raises(InputError, match="temporary files can't be used") as told:
            use()
        assert "TMPDIR=" in str(told.value)
        assert "Set TMPDIR to a folder" in str(told.value)


@pytest.fixture(params=["FIFO", "device"])
def special(request, tmp_path) -> Path:
    """What would block, or never end, if it were opened."""
    path = tmp_path / "study.csv"
    os.mkfifo(path) if request.param == "FIFO" else path.symlink_to("/dev/zero")
    return path


@pytest.mark.timeout(60)
def test_what_is_no_file_is_never_opened_as_a_study_or_a_table(special, place):
    for command in ("run", "init", "audit"):
        assert "it is a" in place.refused(command, special)
    study = special.rename(special.with_suffix(".yaml"))
    assert "it is a" in place.refused("run", study)
    special = study.rename(special)
    with pytest.raises(DataError, match=r"it is a (FIFO|device), not a file"):
        read_table(special)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full isn't here: it is a device of Linux")
def test_a_full_place_for_output_is_named(environment):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tlsearch", "plugins", "strategies"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The output: No space left on device.\n")
    assert "Traceback" not in done.stderr


def test_an_interrupted_command_says_so():
    code = (
        "from tlsearch.cli import main\n"
        "from tlsearch.cli.app import app\n"
        "@app.command()\n"
        "def wait():\n"
        "    raise KeyboardInterrupt\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "wait"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.fixture
def unread():
    """The writing end of a pipe whose reader went away, as `head` does."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_a_reader_that_goes_away_ends_a_question_without_a_word(environment, unread):
    for words in (("plugins", "strategies"), ("plugins", "strategies", "--json")):
        asked = subprocess.run(
            [sys.executable, "-m", "tlsearch", *words], stdout=unread, stderr=subprocess.PIPE, env=environment
        )
        assert (asked.returncode, asked.stderr) == (0, b"")


def test_a_search_goes_on_when_nobody_reads_what_it_says(environment, unread, tmp_path):
    tiny_study.colours(tmp_path / "pictures", noise=30.0)
    described = tiny_study.document(Path("pictures"), budget={"trials": 2}, strategies=["linear_probe"])
    (tmp_path / "study.yaml").write_text(json.dumps(described))
    tests = Path(tiny_study.__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parents[1])])
    for name in ("TLSEARCH_DB", "TLSEARCH_ARTIFACTS"):
        environment = {key: value for key, value in environment.items() if key != name}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.one_process", "run", "study.yaml"],
        stdout=unread,
        stderr=unread,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": path},
    )
    assert ended.returncode == 0
    with Store.open(f"sqlite:///{tmp_path / 'tlsearch.db'}") as store:
        assert store.study("tiny").state is StudyState.COMPLETE
        assert store.model("tiny") is not None


def test_streams_that_are_closed_are_none_to_fail_at(environment, tmp_path):
    asked = f"{shlex.quote(sys.executable)} -m tlsearch plugins strategies <&- >&- 2>&-"
    assert subprocess.run(asked, shell=True, env=environment, cwd=tmp_path).returncode == 0


def test_an_error_stream_that_somebody_put_in_place_stays_open(tmp_path):
    code = "import sys; sys.stderr = open(2, 'w'); from tlsearch.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "no-such-command"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
