"""Redis Activity over a message log that is prepared entry by entry, in a real Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from consumers.dashboard import Dashboard
from consumers.program import Connection
from redis_log import DEFAULT_KEY, LoggedRedis, iso_ms, read_log
from tests.browser.conftest import Open
from tests.browser.looks import choose_type, log_rows
from tests.support import PATIENCE, RedisServer, until

SOON_S = 5
FETCHED = 500  # entries at once
expect.set_options(timeout=SOON_S * PATIENCE * 1000)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture
def serve(redis_server: RedisServer) -> Iterator[Callable[[], str]]:
    """serve(): starts the dashboard, which logs, too; returns the address of the status page.
    Nothing else writes the log."""
    connection = Connection(redis_server.url, DEFAULT_KEY, 10_000)
    server = Dashboard("127.0.0.1", 0, connection, "http://127.0.0.1:1/health")

    def start() -> str:
        server.start()
        return f"{server.url}/status"

    yield start
    server.stop()


def add_old(client: Any, hours: float, type_: str, summary: str) -> None:
    """Log an entry as if it were that old."""
    at_s = time.time() - hours * 3600
    fields = {
        "type": type_,
        "channel": "paper:trades",
        "source": "trader-bot",
        "summary": summary,
        "payload_size": "12",
        "timestamp": iso_ms(at_s),
    }
    for stream in (DEFAULT_KEY, f"{DEFAULT_KEY}:{type_}"):
        client.xadd(stream, fields, id=f"{round(at_s * 1000)}-0")


def fill(client: Any, count: int) -> None:
    """Log as many writes, as refreshes do."""
    logged = LoggedRedis(client, "market-data")
    for start in range(0, count, 500):
        batch = logged.batch()
        for number in range(start, min(start + 500, count)):
            batch.cache_write(f"c:ohlcv:C{number}USDT:5m", "", 60, "500 candles")
        logged.send(batch)


def publish(client: Any, count: int) -> None:
    logged = LoggedRedis(client, "my-bot")
    batch = logged.batch()
    for number in range(count):
        batch.publish("my-bot:pages", "", f"page test {number}")
    logged.send(batch)


def summaries(page: Page) -> list[str]:
    return [row["summary"] for row in log_rows(page)]


def read_again(page: Page) -> None:
    """Let the page read the log again, as it does after a gap in the events, and show it."""
    page.evaluate("for (const row of document.querySelectorAll('#log-table tr')) row.id = 'before'")
    page.evaluate("""dispatchEvent(new StorageEvent(
      "storage", { key: "coinex:timeZone", newValue: '"local"' }))""")
    expect(page.locator("#log-table tbody #before")).to_have_count(0)


def search(page: Page, text: str) -> None:
    page.get_by_role("searchbox", name="Search").fill(text)


def test_a_trade_of_two_hours_ago_is_found_under_a_full_log(
    open_page: Open, redis_server: RedisServer, serve: Callable[[], str]
) -> None:
    client: Any = redis_server.client
    add_old(client, 2.01, "trade", "buy 0.5 BTCUSDT")
    fill(client, 11_000)
    assert "trade" not in {entry["type"] for entry in read_log(client, 20_000)}
    page = open_page(serve())
    chip = page.get_by_role("button", name="Trades")
    expect(chip).to_have_text(re.compile(r"^Trades 1, newest .*\d\d:\d\d:\d\d$"))
    expect(page.get_by_role("button", name="Errors")).to_have_text("Errors none")
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    until(lambda: summaries(page) == ["buy 0.5 BTCUSDT"], SOON_S)
    expect(page.locator("#log-reach")).to_have_text(re.compile("^1 entry, back to .*, 2 h ago$"))
    search(page, "btcusdt BUY")
    expect(page.locator("#log-note")).to_have_text("No entries.")
    search(page, "btcUSDT")
    until(lambda: summaries(page) == ["buy 0.5 BTCUSDT"], SOON_S)


def test_several_rare_types_are_one_list_which_grows(
    open_page: Open, redis_server: RedisServer, serve: Callable[[], str]
) -> None:
    client = redis_server.client
    for hours, type_ in ((5, "trade"), (4, "error"), (3, "signal"), (2, "trade")):
        add_old(client, hours, type_, f"{type_} {hours} h ago")
    page = open_page(serve())
    choose_type(page, "trade", "error")
    old = ["trade 2 h ago", "error 4 h ago", "trade 5 h ago"]
    until(lambda: summaries(page) == old, SOON_S)
    expect(page.locator("#log-reach")).to_have_text(re.compile("^3 entries, back to .*, 5 h ago$"))
    for number in range(3):
        LoggedRedis(client, "trader-bot").trade("paper:trades", "", f"now {number}")
    until(lambda: summaries(page) == ["now 2", "now 1", "now 0", *old], SOON_S)
    page.locator("#log-pause").click()
    LoggedRedis(client, "trader-bot").trade("paper:trades", "", "while paused")
    expect(page.locator("#log-pause")).to_have_text("Resume (1 new)")
    assert summaries(page)[0] == "now 2"
    page.locator("#log-pause").click()
    until(lambda: summaries(page)[0] == "while paused", SOON_S)


def test_pages_back_to_the_oldest_entry(
    open_page: Open, redis_server: RedisServer, serve: Callable[[], str]
) -> None:
    publish(redis_server.client, 1200)
    page = open_page(serve())
    search(page, "page TEST")
    all_ = [f"page test {number}" for number in range(1199, -1, -1)]
    until(lambda: summaries(page) == all_[:FETCHED], SOON_S)
    older = page.get_by_role("button", name="Older")
    for count, note in ((1000, "500 entries added"), (1200, "200 entries added")):
        older.click()
        expect(page.locator("#log-note")).to_have_text(re.compile(f"^{note}: shown back to .* UTC"))
        assert summaries(page) == all_[:count]
    older.click()
    expect(page.locator("#log-note")).to_have_text(re.compile("^No older entries: shown back"))
    expect(page.locator("#log-pause")).to_have_text("Resume")
    publish(redis_server.client, 1)
    expect(page.locator("#log-pause")).to_have_text("Resume (1 new)")
    assert summaries(page) == all_
    page.locator("#log-pause").click()
    until(lambda: summaries(page) == ["page test 0", *all_[: FETCHED - 1]], SOON_S)


def test_the_writes_of_a_refresh_are_one_row_that_opens(
    open_page: Open, redis_server: RedisServer, serve: Callable[[], str]
) -> None:
    logged = LoggedRedis(redis_server.client, "market-data")
    batch = logged.batch()
    for number in range(29):
        batch.cache_write(f"c:ohlcv:C{number}USDT:5m", "1234", 60, f"coin {number}")
        batch.cache_write(f"c:price:C{number}USDT", "12", 60)
    logged.send(batch)
    page = open_page(serve())
    page.locator("#log-types [data-type=cache_write]").click()
    row = page.locator("#log-table tbody tr", has_text="c:ohlcv:*:5m")
    until(lambda: len(log_rows(page)) == 2, SOON_S)
    rows = log_rows(page)
    assert [(each["channel"], each["summary"]) for each in rows] == [
        ("c:price:*", "29 entries"),
        ("c:ohlcv:*:5m", "29 entries"),
    ]
    assert rows[1]["payload_size"] == "116"  # of all
    button = row.get_by_role("button", name="29 entries")
    expect(button).to_have_attribute("aria-expanded", "false")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    coins = [f"coin {number}" for number in range(28, -1, -1)]
    assert summaries(page)[2:] == coins
    read_again(page)
    expect(button).to_be_focused()
    assert summaries(page)[2:] == coins
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "false")
    assert len(log_rows(page)) == 2
    logged.send(batch)  # as an event
    expect(row).to_have_count(2)
    assert len(log_rows(page)) == 4


def test_a_refresh_that_a_page_cut_in_two_is_one_row(
    open_page: Open, redis_server: RedisServer, serve: Callable[[], str]
) -> None:
    fill(redis_server.client, 29)
    publish(redis_server.client, FETCHED - 10)
    page = open_page(serve())
    row = page.locator("#log-table tbody tr", has_text="c:ohlcv:*:5m")
    # What the dashboard logs itself takes some of the places.
    expect(row.get_by_role("button")).to_have_text(re.compile("^[1-9] entries|10 entries$"))
    row.get_by_role("button").click()
    page.get_by_role("button", name="Older").click()
    expect(row.get_by_role("button")).to_have_text("29 entries")
    expect(page.locator("#log-table .member")).to_have_count(29)


def test_what_was_logged_before_the_streams_of_rare_types(
    open_page: Open, redis_server: RedisServer, serve: Callable[[], str]
) -> None:
    client: Any = redis_server.client
    client.xadd(DEFAULT_KEY, {"type": "trade", "summary": "of before"})
    page = open_page(serve())
    until(lambda: "of before" in summaries(page), SOON_S)
    page.get_by_role("button", name="Trades").click()
    expect(page.locator("#log-note")).to_have_text("No entries.")
    expect(page.locator("#log-reach")).to_have_text("No entries yet")
