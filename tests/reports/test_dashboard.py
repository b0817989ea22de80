"""optuna-dashboard over our database, in a process of its own and in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from tiny_looking import Looking, screenshot

from tlsearch.errors import InputError
from tlsearch.reports import dashboard


@pytest.fixture(scope="module")
def served(searched):
    command = [sys.executable, "-m", "tlsearch", "dashboard", "--port", "0", "--db", searched.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line + process.stderr.read()
        yield found[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=550) == 0


def ask(url: str, method: str, path: str, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=550)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_shows_the_study_in_a_browser(served, searched, browser):
    looking = Looking(browser)
    looking.page.goto(f"{served}dashboard")
    looking.page.get_by_text(searched.name).first.click()
    looking.page.wait_for_selector(".main-svg")
    looking.page.get_by_text("Hyperparameter Importance").first.wait_for()
    looking.page.wait_for_timeout(1000)
    screenshot(looking.page, "dashboard.png")
    looking.page.goto(f"{looking.page.url.rstrip('/')}/trials")
    looking.page.get_by_text("linear_probe").first.wait_for()
    looking.close()
    assert looking.complaints == []
    assert {urlsplit(url).netloc for url in looking.requests if url.startswith("http")} == {
        urlsplit(served).netloc
    }


def test_shows_no_button_that_would_be_refused(served, searched, browser):
    looking = Looking(browser)
    looking.page.goto(f"{served}dashboard")
    looking.page.get_by_text(searched.name).first.wait_for()
    assert looking.page.get_by_role("button", name="Reload").is_visible()
    for name in ("Create", "rename study", "delete study"):
        button = looking.page.get_by_role("button", name=name, include_hidden=True)
        assert button.count() == 1  # or it is called otherwise by now, and may be seen
        assert not button.is_visible()
    looking.close()


def test_tells_what_the_database_has(served, searched):
    status, told = ask(served, "GET", "/api/studies")
    assert status == 200
    (study,) = told["study_summaries"]
    assert study["study_name"] == searched.name
    _, detail = ask(served, "GET", f"/api/studies/{study['study_id']}?after=0")
    with searched.store as store:
        best = store.best(searched.name)[0].value
    assert detail["best_trials"][0]["values"] == [best]
    assert len(detail["trials"]) == 15


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/api/studies/1"), ("POST", "/api/studies"), ("PUT", "/api/studies/1/note")],
)
def test_refuses_to_change_anything(served, searched, method, path):
    status, told = ask(served, method, path)
    assert status == 405
    assert "only a study's own search changes it" in told["reason"]
    with searched.store as store:
        assert [study.name for study in store.studies()] == [searched.name]


def test_answers_only_to_its_own_name(served):
    status, _ = ask(served, "GET", "/api/studies", Host="evil.example:80")
    assert status == 403


def test_does_not_disturb_a_search_that_writes(served, searched, tmp_path):
    with searched.store as store:
        lease = store.acquire(searched.name, owner="somebody@somewhere", seconds=600)
        for _ in range(20):
            store.renew(lease, elapsed=0.0)
            assert ask(served, "GET", "/api/studies/1?after=0")[0] == 200


def test_a_port_that_is_taken_is_told(served, searched):
    with pytest.raises(InputError, match="Can't listen on port"):
        dashboard.serve(searched.url, port=urlsplit(served).port, ready=print)
