"""Looking at a page in a real browser."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

SCREENSHOTS = Path(__file__).parents[2] / "docs" / "images"


class Looking:
    """A page in the browser, and all that it complained of or asked the network for."""

    def __init__(self, browser: Any, *, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self._hear("error", str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def close(self) -> None:
        self.page.close()


def drawn_figures(browser: Any, report: Path) -> set[str]:
    """Names of a report's figures, of which none may be empty, without a complaint of the page."""
    looking = Looking(browser)
    looking.page.goto(report.as_uri())
    looking.page.wait_for_timeout(100)  # for the complaints: a script that ended early draws no more
    assert looking.complaints == [], looking.complaints
    looking.page.wait_for_selector("[data-figure]:not([data-drawn])", state="detached")
    marks = ".cartesianlayer :is(.trace path, .hm image)"
    found = looking.page.eval_on_selector_all(
        "[data-figure]",
        "(all, marks) => all.map(one => [one.dataset.figure, one.querySelectorAll(marks).length])",
        marks,
    )
    assert all(count for _, count in found), found
    assert looking.complaints == [], looking.complaints
    looking.close()
    return {name for name, _ in found}


def drawn_data(page: str) -> list[dict[str, Any]]:
    """What the figures of a report's text are drawn from."""
    return json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL).group(1))


def screenshot(page: Any, name: str, **options: Any) -> None:
    """Keep a picture for the documentation, where TLSEARCH_SCREENSHOTS asks for it."""
    if os.environ.get("TLSEARCH_SCREENSHOTS"):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / name, **options)
