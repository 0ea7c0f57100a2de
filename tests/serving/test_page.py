# SPDX-License-Identifier: Apache-2.0
"""The page, in a real browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import io
import re
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import photograph

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")
SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1100, "height": 800}},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "has_touch": True,
        "is_mobile": True,
        "device_scale_factor": 2,
    },
}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(request, browser, server):
    context = browser.new_context(**SIZES[request.param])
    page = context.new_page()
    page.urls, page.errors = [], []
    page.on("request", lambda request: page.urls.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.goto(server.url)
    yield page
    assert page.errors == []
    assert all(url.startswith((server.url, "data:", "blob:")) for url in page.urls)
    context.close()


def _result(page) -> str:
    page.locator("#version", has_text="version 1").wait_for()
    return page.locator("#result").inner_text()


def _input(page) -> np.ndarray:
    data = page.evaluate(
        "() => Array.from(document.getElementById('input').getContext('2d').getImageData(0, 0, 28, 28).data)"
    )
    return np.array(data, np.uint8).reshape(28, 28, 4)[..., 0]


def test_a_drawing_is_predicted_while_it_goes_on(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out on a phone
    assert page.locator("#bars tr").count() == 10
    box = page.locator("#draw").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.mouse.move(*at(0.5, 0.15))
    page.mouse.down()
    page.mouse.move(*at(0.5, 0.5), steps=5)
    assert re.match(r"\d, probability \d+\.\d %$", _result(page))  # the button is still down
    page.mouse.move(*at(0.5, 0.85), steps=5)
    page.mouse.up()
    page.wait_for_timeout(300)
    percents = [float(text.removesuffix(" %")) for text in page.locator("td.percent").all_inner_texts()]
    assert sum(percents) == pytest.approx(100, abs=1)
    pixels = _input(page)
    rows, columns = np.flatnonzero(pixels.max(axis=1) > 60), np.flatnonzero(pixels.max(axis=0) > 60)
    assert 18 <= np.ptp(rows) + 1 <= 22  # a line of 20 pixels' height
    assert np.ptp(columns) + 1 <= 5
    assert abs(columns.mean() - 13.5) <= 1
    page.locator("#clear").click()
    assert page.locator("#result").inner_text() == ""
    assert _input(page).max() == 0


def test_a_photograph_is_converted_to_the_format_of_the_model(page, digits):
    images, _ = digits
    for number in (0, 3, 4):
        file = io.BytesIO()
        photograph(images[number], number).save(file, "JPEG")
        page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
        _result(page)
        pixels = _input(page).astype(float).ravel()
        correlations = [np.corrcoef(pixels, np.asarray(image, float).ravel())[0, 1] for image in images[:10]]
        assert int(np.argmax(correlations)) == number


def test_a_file_without_a_digit_gives_a_message(page):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"not a picture"})
    page.locator("#result.error", has_text="cannot open this file").wait_for()
    file = io.BytesIO()
    Image.new("L", (60, 60), 128).save(file, "PNG")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.locator("#result.error", has_text="No digit found").wait_for()


def test_a_picture_can_be_dropped(page, digits):
    file = io.BytesIO()
    Image.fromarray(digits[0][3]).save(file, "PNG")
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(file.getvalue()),
    )
    assert _result(page).startswith("3, ")
    assert np.array_equal(_input(page), digits[0][3])


def test_the_documentation_page_sends_a_request(page, server):
    page.goto(f"{server.url}/docs")
    page.locator("summary", has_text="/readyz").click()
    page.locator("details[open] button").click()
    page.locator("details[open] pre", has_text='"ready":true').wait_for()
