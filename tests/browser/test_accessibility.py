"""All pages with everything open: they fit windows from phone to wall, can be read, and axe, the
checker of accessibility, finds nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from consumers.book import TRADES_LOG_KEY
from tests.browser.conftest import COINS, PHONE, WIDE, Open, System
from tests.browser.looks import coin, column_texts, faint_texts, star
from tests.support import PATIENCE, until
from tests.trades import trade

SOON_S = 15
expect.set_options(timeout=SOON_S * PATIENCE * 1000)
PAGES = ("/", "/trades", "/status")
SCHEMES = ("light", "dark")
SIZES = (PHONE, (768, 800), (1000, 800), WIDE, (2560, 1300))
DIALOGS = ("Settings", "Keys")
OVERFLOW = "document.scrollingElement.scrollWidth - innerWidth"

OpenPage = Callable[..., Page]


@pytest.fixture
def opened(open_page: Open, system: System) -> OpenPage:
    """opened(path, ...): a page that has drawn everything; on the scanner a chart is open."""

    def open_whole(path: str, *look: Any) -> Page:
        for profit in (3.0, -2.0, 1.0):
            system.redis.client.xadd(TRADES_LOG_KEY, trade(profit).fields())  # type: ignore[arg-type]
        page = open_page(f"{system.url}{path}", *look)
        if path == "/":
            until(lambda: len(column_texts(page, "symbol")) == len(COINS) + 1, SOON_S)
            star(page, "ETHUSDT").click()
            coin(page, "BTCUSDT").click()
            expect(page.locator("#chart-area svg, #chart-area canvas").first).to_be_visible()
        elif path == "/trades":
            expect(page.locator("#trades-table tbody tr").nth(2)).to_be_attached()
        else:
            expect(page.locator("#log-table tbody tr").nth(20)).to_be_attached()
        return page

    return open_whole


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_fits_any_window_and_can_be_read(opened: OpenPage, path: str, scheme: str) -> None:
    page = opened(path, WIDE, scheme)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate(OVERFLOW) <= 0, width
        assert faint_texts(page) == [], width
        for name in DIALOGS:
            page.get_by_role("button", name=name).click()
            dialog = page.get_by_role("dialog", name=name)
            expect(dialog).to_be_in_viewport(ratio=1)
            assert dialog.evaluate("d => d.scrollWidth - d.clientWidth") <= 0, (name, width)
            assert faint_texts(page) == [], (name, width)
            page.keyboard.press("Escape")
            expect(dialog).to_be_hidden()


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(opened: OpenPage, path: str, size: tuple[int, int]) -> None:
    page = opened(path, size)
    for name in (None, *DIALOGS):
        if name:
            page.get_by_role("button", name=name).click()
        results = Axe().run(page).response
        found = [
            (violation["id"], node["target"], node["failureSummary"])
            for violation in results["violations"]
            for node in violation["nodes"]
        ]
        assert results["testEngine"]["name"] == "axe-core"
        assert found == [], name
        page.keyboard.press("Escape")
        if path == "/" and not name:
            coin(page, "BTCUSDT").click()  # Escape has closed the chart


def test_what_does_not_fit_is_hinted_at_and_wide_windows_show_more(opened: OpenPage) -> None:
    page = opened("/", (800, 800))
    frame = page.locator(".table-frame")
    table = page.locator(".table-box")
    fits = table.evaluate("box => box.scrollWidth <= box.clientWidth")
    assert fits
    few = page.locator("#scanner-table th").count()
    page.get_by_role("button", name="Settings").click()
    for name in ("Upper band", "Lower band", "Middle band"):
        page.get_by_role("dialog").get_by_label(name).check()
    page.keyboard.press("Escape")
    expect(frame).to_have_class("table-frame more-right")
    table.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    expect(frame).to_have_class("table-frame more-left")
    page.set_viewport_size({"width": 2560, "height": 1300})
    expect(frame).to_have_class("table-frame")
    assert page.locator("#scanner-table th").count() >= few + 10


def test_the_signs_are_explained_where_they_are(opened: OpenPage) -> None:
    for size in (PHONE, WIDE):
        page = opened("/", size)
        page.evaluate("scrollTo(0, 0)")
        signs = page.locator("#scanner-table thead .signs")
        expect(signs).to_be_in_viewport()
        text = signs.inner_text()
        for word in ("▲ up", "▼ down", "● on", "○ off", "low", "high"):
            assert word in " ".join(text.split()), word
