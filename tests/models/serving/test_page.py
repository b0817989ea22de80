"""The page of a server, in a real browser."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

TOKEN = "s3cret"


def picture(kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def opened(browser, start):
    """Opens the page of a server; what the page asked for is kept."""
    pages = []

    def begin(*, width: int = 1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        pages.append(page)
        page.goto(start(**options))
        return page

    yield begin
    for page in pages:
        assert page.errors == []
        page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_broken_picture_refuses_itself_alone(opened, width):
    page = opened(width=width)
    page.get_by_text("Classifies an image as one of 3 classes. ant, bee, cat").wait_for()
    assert page.locator("#token").is_hidden()
    files = [
        {"name": "first.png", "mimeType": "image/png", "buffer": picture()},
        {"name": "<b>broken.png", "mimeType": "image/png", "buffer": b"no picture"},
        {"name": "last.jpg", "mimeType": "image/jpeg", "buffer": picture("JPEG")},
    ]
    page.locator("#files").set_input_files(files)
    page.locator("#answers .label").nth(1).wait_for()
    page.locator("#answers .wrong").wait_for()
    cards = page.locator("#answers li")
    assert cards.count() == 3
    assert "<b>broken.png is no known picture format." in cards.nth(1).inner_text()
    for place in (0, 2):
        card = cards.nth(place)
        assert card.locator(".label").inner_text() in ("ant", "bee", "cat")
        shares = [
            float(text.rstrip("%")) for text in card.locator(".bar span:nth-child(2)").all_inner_texts()
        ]
        assert len(shares) == 3
        assert sum(shares) == pytest.approx(100, abs=0.3)
        assert card.locator("img").evaluate("one => one.naturalWidth") == 60
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_token_is_asked_for_where_the_server_takes_one(opened):
    page = opened(token=TOKEN)
    page.locator("#token").wait_for()
    page.locator("#token").fill("another")
    page.locator("#token").press("Enter")
    page.get_by_text("The token is wrong.").wait_for()
    page.locator("#token").fill(TOKEN)
    page.locator("#token").press("Enter")
    page.get_by_text("one of 3 classes").wait_for()
    page.locator("#files").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": picture()})
    page.locator("#answers .label").wait_for()


def test_numbers_and_sets_of_labels_are_shown_as_they_are_predicted(opened, served):
    page = opened(served=served)
    page.get_by_text(served.task.does(served.target_spec)).wait_for()
    page.locator("#files").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": picture()})
    page.locator("#answers .label").wait_for()
    (one,) = served.describe([picture()])
    said = page.locator("#answers .label").inner_text()
    if "values" in one:
        low, high = one["intervals"]["age"]
        assert said == f"age {one['values']['age']:.5g} ({low:.5g} to {high:.5g})"
    else:
        assert said == (", ".join(one["labels"]) or "no label")
        assert page.locator("#answers .bar").count() == 3
