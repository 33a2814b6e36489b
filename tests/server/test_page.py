"""The page in a real browser: a PDF is uploaded, asked about, and opened at what the answer cites, by keyboard."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from server_conftest import Serve
from test_server import client, text_pdf

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCRIPT = "<img src=x onerror=alert(1)>"
PAGES = [f"Page {number} of the story about the lighthouse. {SCRIPT}" for number in range(1, 7)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs: pip install playwright"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, such as Debian's package"),
]


@pytest.fixture
def page(serve: Serve) -> Iterator[Any]:
    """The start page of a server, on a phone's width, in dark."""
    from playwright.sync_api import sync_playwright

    url = serve().removesuffix("/v1")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        opened.set_default_timeout(30_000)
        opened.faults = []
        opened.on("pageerror", lambda error: opened.faults.append(str(error)))
        opened.on("dialog", lambda dialog: opened.faults.append(dialog.message))
        opened.goto(url)
        yield opened
        browser.close()


def test_from_upload_to_the_cited_page(page: Any) -> None:
    page.set_input_files("#pick", {"name": SCRIPT, "mimeType": "application/pdf", "buffer": text_pdf(PAGES)})
    page.locator("#files .how", has_text=re.compile(r"\d tokens$")).wait_for()
    assert SCRIPT in page.locator("#files .name").inner_text()  # shown as text
    page.fill("#question", "What is the story about?")
    page.keyboard.press("Enter")
    page.locator(".chips button").first.wait_for()
    page.locator(".chips button").first.focus()
    page.keyboard.press("Enter")
    page.locator("#page img").wait_for()
    assert page.locator("#where").inner_text().endswith(tuple("123456"))
    page.keyboard.press("Escape")
    assert not page.locator("#view").is_visible()

    strip = page.locator(".strip")
    assert strip.get_attribute("aria-valuemax") == str(len(PAGES))
    strip.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert strip.get_attribute("aria-valuenow") == "2"
    page.keyboard.press("Enter")
    page.locator("#page img").wait_for()
    assert page.locator("#where").inner_text().endswith("page 2")
    page.keyboard.press("Escape")

    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing stands out to the right
    page.get_by_role("button", name="Delete").click()
    page.locator("#files li").wait_for(state="detached")
    assert page.faults == []


def test_what_cannot_be_read_is_said(page: Any) -> None:
    page.set_input_files("#pick", {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 no"})
    page.locator("#files .how", has_text="broken.pdf").wait_for()
    assert page.faults == []
    assert client(page.url + "v1").files.list().data[0].status == "error"
