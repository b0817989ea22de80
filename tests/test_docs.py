"""The documentation is built, and what it shows is run: its tutorial, its Python, its commands."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from typer.main import get_command

from tests.conftest import free_port
from tests.one_process import command
from tlsearch import spec
from tlsearch.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TUTORIAL = "first"
"""The tutorial's study."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ ")]


def own(word: str, study: str) -> str:
    """A guide's word as it is for who has another study."""
    for theirs, ours in (("photos", study), ("flowers.yaml", "photos.yaml"), ("flowers", study)):
        word = re.sub(rf"^{re.escape(theirs)}(?=$|[-.]html|-)", ours, word)
    return word


def everywhere(found) -> list:
    return [
        pytest.param(one, id=f"{page.relative_to(ROOT / 'docs')}-{number}")
        for page in PAGES
        for number, one in enumerate(found(page))
    ]


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://(?!docs\.ray\.io|optuna\.org)[^"]*\.(?:js|css)', front)
    assert "tlsearch init" in (tmp_path / "site" / "reference" / "commands" / "index.html").read_text()


def anchors(page: Path) -> set[str]:
    """What links within a page may lead to, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "plugins/README.md")),
    ],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere_in_a_checkout(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("section", ["budget", "resources", "search", "abstain", "loggers"])
def test_the_readme_has_every_key_of_a_study_file(section):
    schema = spec.json_schema()
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if f"| `{section}` |" in line)
    reference = next(
        part["$ref"]
        for part in [schema["properties"][section], *schema["properties"][section].get("anyOf", [])]
        if "$ref" in part
    )
    keys = schema["$defs"][reference.rpartition("/")[2]]["properties"]
    assert [key for key in keys if f"`{key}" not in row] == []


@dataclass
class Reader:
    """Who follows the documentation in a folder of their own, with the tutorial's study."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str) -> str:
        """Run a line; what it printed. A search is run as readers run it, questions in this process."""
        if words[0] == "tlsearch" and words[1] != "run":
            done = command(*words[1:], folder=self.folder, env=self.env)
        else:
            done = subprocess.run(
                words, cwd=self.folder, capture_output=True, text=True, env=self.env, timeout=550
            )
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def follow(self, name: str, *, leaving: tuple[str, ...] = ()) -> dict[str, str]:
        """Run a guide's commands with the tutorial's names in the place of the guide's; what each printed."""
        told = {}
        for line in commands(ROOT / "docs" / "how-to" / name):
            if not line.startswith(("pip ", *leaving)):
                told[line] = self.run(*(own(word, TUTORIAL) for word in shlex.split(line)))
        return told

    def python(self, name: str, **changes: str) -> str:
        """Run a guide's block of Python, some words replaced by what is quick."""
        (source,) = blocks(ROOT / "docs" / "how-to" / name, "python")
        for theirs, ours in changes.items():
            assert theirs in source
            source = source.replace(theirs, ours)
        return self.run(sys.executable, "-c", source.replace('"flowers"', f'"{TUTORIAL}"'))


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    """Who begins with an empty folder."""
    folder = tmp_path_factory.mktemp("reader")
    return Reader(
        folder,
        {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TLSEARCH_CACHE": str(folder / "cache"),
            # As a newcomer has it: what wins with other packages may be no model that timm can hold.
            "TLSEARCH_PLUGINS_ALLOWED": "tlsearch-efficientnet-lite",
        },
    )


@pytest.fixture(scope="module")
def walked(reader: Reader) -> dict[str, str]:
    """The tutorial's commands, each with what it printed."""
    page = ROOT / "docs" / "tutorial.md"
    (images,) = blocks(page, "python")
    exec(
        compile(images.replace('Path("photos")', f"Path({str(reader.folder / 'photos')!r})"), page, "exec"),
        {},
    )
    for kind in (reader.folder / "photos").iterdir():  # a third of them is enough to learn from
        for picture in sorted(kind.iterdir(), key=lambda path: int(path.stem))[60:]:
            picture.unlink()
    told = {line: reader.run(*shlex.split(line)) for line in commands(page)}
    (reader.folder / "new.jpg").write_bytes((reader.folder / "photos" / "3" / "3.png").read_bytes())
    return told


@pytest.mark.slow
def test_the_tutorial_is_walked(walked: dict[str, str], reader: Reader):
    predicted = json.loads(next(text for line, text in walked.items() if line.startswith("tlsearch predict")))
    right = [one for one in predicted if one["label"] == "3"]
    assert len(right) > 0.9 * len(predicted)
    one = next(one for one in predicted if one["item"].endswith("/3.png"))
    name, share = next(iter(one["probabilities"].items()))
    assert f"{name} {share:.4f}" in next(text for line, text in walked.items() if line.startswith("python"))
    assert "<html" in (reader.folder / "first.html").read_text()


@pytest.mark.slow
def test_the_guide_to_exports_is_followed(walked: dict[str, str], reader: Reader):
    told = reader.follow("export.md")
    assert told["python m/predict.py new.jpg"].split()[1] == "3"
    assert reader.python("export.md").strip() == "3"
    assert {path.name for path in (reader.folder / "exports").iterdir()} >= {"onnx", "torch"}
    assert (reader.folder / "hub" / "README.md").exists()


@pytest.mark.slow
def test_the_guides_to_data_reports_and_optuna_are_followed(walked: dict[str, str], reader: Reader):
    audit = next(text for line, text in reader.follow("data.md").items() if "--json" in line)
    assert json.loads(audit)["classes"] == len(list((reader.folder / "photos").iterdir()))
    reader.follow("report.md")
    reader.follow("dashboard.md", leaving=("tlsearch dashboard",))
    assert (reader.folder / "optuna.db").exists()
    assert "fine_tune.learning_rate" in reader.python("dashboard.md")
    assert "<html" in (reader.folder / "rates.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the guide calls curl, which isn't installed")
def test_the_guide_to_serving_is_followed(walked: dict[str, str], reader: Reader):
    for name in ("a.jpg", "b.png"):
        (reader.folder / name).write_bytes((reader.folder / "new.jpg").read_bytes())
    port = str(free_port())
    lines = commands(ROOT / "docs" / "how-to" / "serve.md")
    (served,) = [line for line in lines if "--port" in line]
    server = subprocess.Popen(
        [own(word, TUTORIAL).replace("8000", port) for word in shlex.split(served)],
        cwd=reader.folder,
        env=reader.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answers = [
            reader.run(
                *shlex.split(line.replace("8000", port)), "-fsS", "--retry", "60", "--retry-connrefused"
            )
            for line in lines
            if line.startswith("curl")
        ]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    both, one, model = map(json.loads, answers)
    assert [each["label"] for each in both["predictions"]] == ["3", "3"]
    assert one["predictions"][0]["label"] == "3"
    assert model["classes"]


@pytest.mark.long
def test_the_guide_to_the_estimator_is_followed(reader: Reader):
    quick = {
        "load_digits()": "load_digits(n_class=3)",
        "trials=12": "trials=2",
        "epochs=3": "epochs=1",
        "image_size=64": "image_size=32",
    }
    score = reader.python("estimator.md", **quick).splitlines()[1]
    assert float(score) > 0.5


def _tlsearch(page: Path) -> list[str]:
    return [line for line in commands(page) if line.startswith("tlsearch ")]


@pytest.mark.parametrize("line", everywhere(_tlsearch))
def test_commands_are_understood(line):
    of, words = get_command(app), shlex.split(re.split(r" [|>&]", line)[0])[1:]
    context = click.Context(of, info_name="tlsearch")
    while hasattr(of, "commands") and words and words[0] in of.commands:
        of, words = of.commands[words[0]], words[1:]
    parsed = of.make_context(of.name, words, parent=context)
    assert all(parsed.params.get(option.name) is not None for option in of.params if option.required)


@pytest.mark.parametrize("source", everywhere(lambda page: blocks(page, "python")))
def test_python_is_python_of_today(source):
    import importlib

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tlsearch":
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, name.name) for name in node.names)


@pytest.mark.parametrize(
    "text", everywhere(lambda page: [b for b in blocks(page, "yaml") if b.startswith("study:")])
)
def test_study_files_are_valid(text, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    assert spec.load(tmp_path / "s.yaml").study
