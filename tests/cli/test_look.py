"""``tlsearch look``: the page of what the network sees."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tlsearch.cli.app import app
from tlsearch.errors import InputError


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    for name in ("TLSEARCH_CACHE", "TLSEARCH_DB"):
        monkeypatch.setenv(name, place.env[name])
    return place


def test_a_page_of_a_study(here, images):
    study = here.study(data={"path": str(images)})
    told = CliRunner().invoke(app, ["look", str(study), "--each", "1"])
    assert told.exit_code == 0, told.output
    assert "The network sees squares of" in told.stderr
    path = here.folder / told.stdout.strip()
    page = path.read_text()
    assert path.name.endswith("-look.html")
    for words in ("disc", "frame", "stripes", "Training:", "Validation:", "Test:", "Augmented in training"):
        assert words in page
    assert page.count('class="pair"') == 3 * 4  # of each class and split one: no picture loses anything
    assert "http" not in page.replace("http-equiv", "")
    assert not here.database.exists()


def test_what_is_no_picture_is_refused_before_it_is_read(here):
    pytest.importorskip("tlsearch_text")
    study = here.study(data={"source": "text_table", "path": "not-there.csv"})
    with pytest.raises(InputError, match="of the kind text"):
        CliRunner().invoke(app, ["look", str(study)], catch_exceptions=False)
