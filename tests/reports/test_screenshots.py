"""The pictures of the documentation, made from a real study where TLSEARCH_SCREENSHOTS asks for them.

``TLSEARCH_SCREENSHOTS=sqlite:///demo/tlsearch.db`` takes the study of `make demo`; its name may follow
after ``#``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_looking import SCREENSHOTS, Looking

from tlsearch.reports import html

ASKED = os.environ.get("TLSEARCH_SCREENSHOTS", "")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_report_of_a_real_study(browser, tmp_path_factory, scheme, width):
    if "://" not in ASKED:
        pytest.skip("TLSEARCH_SCREENSHOTS names no study database")
    url, _, study = ASKED.partition("#")
    path = html.write(url, study or "quickstart", Path(tmp_path_factory.mktemp("shots")) / "r.html")
    looking = Looking(browser, width=width, scheme=scheme)
    looking.page.goto(path.as_uri())
    looking.page.wait_for_selector("[data-figure]:not([data-drawn])", state="detached")
    looking.page.wait_for_timeout(500)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    height = 1500 if width > 1000 else 1200
    clip = {"x": 0, "y": 0, "width": width, "height": height}
    name = f"report-{'phone' if width < 1000 else 'wide'}-{scheme}.png"
    looking.page.screenshot(path=SCREENSHOTS / name, full_page=True, clip=clip)
    looking.page.add_style_tag(content="nav { display: none !important }")  # it would lie over the section
    if width > 1000:
        looking.page.locator("#model").screenshot(path=SCREENSHOTS / name.replace("report-", "report-model-"))
    looking.close()
    assert looking.complaints == []


def test_terminal_of_a_real_study(browser):
    if "://" not in ASKED:
        pytest.skip("TLSEARCH_SCREENSHOTS names no study database")
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    url, _, study = ASKED.partition("#")
    console = Console(record=True, width=118, file=open(os.devnull, "w"))  # noqa: SIM115
    for words in (("best", study or "quickstart"), ("trials", study or "quickstart", "--sort", "value")):
        command = [sys.executable, "-m", "tlsearch", *words, "--db", url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        console.print(Text(f"$ tlsearch {' '.join(words)}", style="bold"))
        shown = done.stdout.replace(f"{Path.cwd()}{os.sep}", "")  # whose machine it was is nobody's business
        console.print(Text("\n".join(line[:118] for line in shown.splitlines()[:22]) + "\n"))
    page = browser.new_page(viewport={"width": 1180, "height": 600})
    page.set_content(console.export_html(theme=MONOKAI))
    page.screenshot(path=SCREENSHOTS / "terminal.png", full_page=True)
    page.close()
