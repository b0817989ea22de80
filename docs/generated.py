"""Pages that are written somewhere else: commands, study file, the plugin guide, measurements, changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "how-to/plugins.md": "plugins/README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}


BUILT = {
    "](../plugins/README.md)": "](how-to/plugins.md)",
    "](../README.md#what-a-study-file-holds)": "](reference/study-file.md)",
    "Commands (`tlsearch COMMAND --help`)": "[Commands](reference/commands.md)",
}
"""What pages of this folder say in the source tree, and in what is built of it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of this folder."""
    for page, source in ELSEWHERE.items():
        text = _without_local_links((ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    files.append(File.generated(config, "reference/study-file.md", content=study_file()))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Put tables that benchmarks write into the pages that explain them; lead to pages that are generated."""
    for here, there in BUILT.items():
        markdown = markdown.replace(here, there)
    return re.sub(r"<!-- include (\S+) -->", lambda found: (ROOT / found[1]).read_text("utf-8"), markdown)


def commands() -> str:
    """The help of every command, as Markdown."""
    import typer.cli
    from typer.main import get_command

    from tlsearch.cli.app import app

    command = get_command(app)
    context = typer.Context(command, info_name="tlsearch")
    text: str = typer.cli.get_docs_for_click(obj=command, ctx=context, name="tlsearch")
    return text


def study_file() -> str:
    """Every key of a study file with its meaning and default, as Markdown."""
    from tlsearch.spec import json_schema

    schema = json_schema()
    parts = [
        "# Study file",
        "What a study file may hold. `tlsearch study schema` prints the same as a JSON schema, by which "
        "editors complete and check YAML; `tlsearch init DATA` writes a file that fits your data. Relative "
        "paths count from the file's folder.",
        _table(schema, schema),
    ]
    told = set()
    for key, described in schema["properties"].items():
        section = _section(schema, described)
        if section is not None and section["title"] not in told:
            told.add(section["title"])
            parts += [f"## {key}", str(section.get("description", "")), _table(schema, section)]
    return "\n\n".join(parts) + "\n"


def _section(schema: dict[str, Any], described: dict[str, Any]) -> dict[str, Any] | None:
    for part in (described, *described.get("anyOf", ())):
        section = schema["$defs"].get(part.get("$ref", "").rpartition("/")[2])
        if section is not None and "properties" in section:
            return dict(section)
    return None


def _table(schema: dict[str, Any], section: dict[str, Any]) -> str:
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *_rows(schema, section)])


def _rows(schema: dict[str, Any], section: dict[str, Any]) -> Iterator[str]:
    for key, described in section["properties"].items():
        needed = key in section.get("required", ())
        default = described.get("default")
        shown = "needed" if needed else "" if default is None or isinstance(default, dict) else f"`{default}`"
        about = described if "description" in described else _section(schema, described) or {}
        meaning = str(about.get("description", "")).replace("|", "\\|")
        yield f"| `{key}` | {_kind(described)} | {shown} | {meaning} |"


def _kind(described: dict[str, Any]) -> str:
    kinds = []
    for part in described.get("anyOf", [described]):
        if "enum" in part:
            kinds.append(", ".join(f"`{value}`" for value in part["enum"]))
        elif part.get("type") not in (None, "null"):
            low = part.get("minimum", part.get("exclusiveMinimum"))
            high = part.get("maximum", part.get("exclusiveMaximum"))
            bounds = f" {low} to {high}" if low is not None and high is not None else ""
            kinds.append(f"{part['type']}{bounds}")
        elif "$ref" in part:
            kinds.append("section")
    return " or ".join(kinds)


def _without_local_links(text: str) -> str:
    """Links to files of the source tree lead nowhere on a web page: their text stays."""
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]*\)", r"\1", text)
