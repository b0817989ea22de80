"""A push to a hub that runs here: what huggingface_hub sends for an export."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tlsearch.cli.app import app
from tlsearch.errors import ExportError, InputError
from tlsearch.models.export import push


class Hub(ThreadingHTTPServer):
    """Answers as the hub does to those who make a repository and commit to it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.made: list[dict] = []
        self.committed: dict[str, bytes] = {}
        self.refuse = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, document, status=200):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self._answer({"error": "Invalid credentials"}, 401)
        return self._answer({"name": "me", "type": "user", "orgs": [], "id": "me/birds", "sha": "0" * 40})

    def do_POST(self):
        hub, body = self.server, self._body()
        if hub.refuse:
            return self._answer({"error": "no room left"}, hub.refuse)
        if self.path.endswith("/repos/create"):
            hub.made.append(json.loads(body))
            return self._answer({"url": f"{hub.url}/me/birds", "name": "me/birds"})
        if "/preupload/" in self.path:
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": one["path"], **kind} for one in json.loads(body)["files"]]
            return self._answer({"files": files})
        if "/validate-yaml" in self.path:
            return self._answer({"errors": [], "warnings": []})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                hub.committed[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return self._answer({"commitOid": "abc", "commitUrl": f"{hub.url}/me/birds/commit/abc"})


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    # Read when huggingface_hub is imported, which it may be already.
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_HOME"):
        monkeypatch.setattr(constants, name, server.url, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def exported(tmp_path):
    (tmp_path / "README.md").write_text("---\nlibrary_name: timm\n---\n# Birds\n")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    return tmp_path


@pytest.mark.parametrize("public", [False, True])
def test_an_export_is_one_commit_of_a_private_repository(hub, exported, public):
    push.check("me/birds")
    assert push.push(exported, "me/birds", public=public) == f"{hub.url}/me/birds/commit/abc"
    assert hub.made[0]["name"] == "birds"
    assert hub.made[0].get("private", hub.made[0].get("visibility") == "private") is not public
    assert hub.committed == {path.name: path.read_bytes() for path in exported.iterdir()}


def test_who_is_not_logged_in_is_told_before_anything_is_written(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ExportError, match="The hub refused me/birds"):
        push.check("me/birds")
    assert hub.made == []
    with pytest.raises(InputError, match="--push a/b/c"):
        push.check("a/b/c")


def test_what_the_hub_refuses_is_a_sentence(hub, exported):
    hub.refuse = 403
    with pytest.raises(ExportError, match=r"The hub refused me/birds: .*no room left.*\(403\)"):
        push.push(exported, "me/birds", public=False)


def test_a_hub_that_is_not_there(hub, exported):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ExportError, match="The hub can't be reached"):
        push.check("me/birds")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx", "--push", "me/birds"], "--push uploads the huggingface export"),
        (["--format", "huggingface", "--public"], "--public goes with --push"),
        (["--format", "huggingface", "--push", "a/b/c"], "--push a/b/c"),
    ],
)
def test_the_command_refuses_what_cannot_be_pushed_before_it_looks_for_a_model(tmp_path, words, said):
    with pytest.raises(InputError, match=said):
        CliRunner().invoke(
            app, ["export", "no-study", "-o", str(tmp_path / "m"), *words], catch_exceptions=False
        )


def test_the_command_writes_tries_and_pushes(hub, tmp_path, monkeypatch):
    tests = Path(__file__).parents[2]
    bundle = tests / "golden" / "bundle"
    monkeypatch.setenv("PYTHONPATH", str(tests / "tiny"))  # for the process that tries the export
    words = ["-o", str(tmp_path / "m"), "--format", "huggingface", "--push", "me/birds", "--json"]
    done = CliRunner().invoke(app, ["export", str(bundle), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["commit"] == f"{hub.url}/me/birds/commit/abc"
    assert set(told["exports"][0]["files"]) == set(hub.committed)
