"""Fixtures for the browser tests: the whole system on free ports, a real Chromium, and a watch for
anything that a page does wrong."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from demo import market
from demo.exchange import Exchange
from redis_log import LoggedRedis
from tests.support import Program, RedisServer, Service, free_port, until

COINS = market.symbols(29)
YOUNG = "X030USDT"  # a coin that was listed some hours ago
YOUNG_HOURS = 10
# Seconds from refresh to refresh. A refresh gives up when the next one is due, and three systems
# may share two cores that are busy.
TIMEFRAMES = {"5m": 5, "1h": 10, "4h": 15}
LISTENS_S = 15  # until the dashboard does
WHOLE_S = 30  # until the service has read everything and the consumers have processed it

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE = (1400, 900), (390, 844)


class System:
    """Redis, the simulated exchange, the service, and two consumers; tests may end any of them.

    29 coins have full history; one more has been listed for ten hours, so that some of its figures
    cannot be computed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: list[Program] = []
        self.redis = RedisServer()
        listed_at = time.time() - YOUNG_HOURS * 3600
        self.exchange = Exchange((*COINS, YOUNG), listed_at={YOUNG: listed_at}).start()
        self.service = self._start_service()
        self.ta_service = self.start_consumer("ta_service")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.dashboard = self.start_dashboard()

    def _start_service(self) -> Service:
        timeframes = (f"{name}:{every_s}:{10 * every_s}" for name, every_s in TIMEFRAMES.items())
        service = Service(
            self._folder / "service.log",
            [],
            {
                "REDIS_URL": self.redis.url,
                "BINANCE_BASE_URL": self.exchange.url,
                "HEALTH_PORT": str(free_port()),
                "SYMBOLS": ",".join((*COINS, YOUNG)),
                "TIMEFRAMES": ",".join(timeframes),
            },
        )
        self._programs.append(service)
        return service

    def start_consumer(self, name: str, **environ: str) -> Program:
        log = self._folder / f"{name}{len(self._programs)}.log"
        environ = {"REDIS_URL": self.redis.url, **environ}
        program = Program(log, ["-m", f"consumers.{name}"], environ)
        self._programs.append(program)
        return program

    def start_dashboard(self) -> Program:
        health_url = f"http://127.0.0.1:{self.service.port}/health"
        return self.start_consumer(
            "dashboard", DASHBOARD_PORT=str(self.port), HEALTH_URL=health_url
        )

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return json.load(answer)

    def is_listening(self) -> bool:
        try:
            return bool(self.get("/api/status"))
        except OSError:
            return False

    def is_whole(self) -> bool:
        """Whether every coin has a score and all its analyses."""
        rows = self.get("/api/scanner")["symbols"] if self.is_listening() else []
        whole = [row for row in rows if row["price"] and row["scan"] and all(row["ta"].values())]
        return len(whole) == len(COINS) + 1 and all(len(row["ta"]) == 3 for row in whole)

    def log(self, source: str) -> LoggedRedis:
        return LoggedRedis(self.redis.client, source)

    def end(self) -> None:
        for program in reversed(self._programs):
            program.end()
        self.exchange.stop()
        self.redis.kill()


@contextmanager
def running_system(folder: Path) -> Iterator[System]:
    system = System(folder)
    try:
        until(system.is_whole, WHOLE_S, 0.2, "all of each coin is in Redis")
        yield system
    finally:
        system.end()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system for all tests of a module, which leave it unchanged."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if not executable:
        pytest.fail("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=list(CHROMIUM_ARGUMENTS)
        )
        yield browser
        browser.close()


class Watch:
    """Collects what a page does wrong, one sentence each."""

    def __init__(self, page: Page, home: str) -> None:
        self._home = urlsplit(home).netloc
        self.strangers: list[str] = []  # requests to anything but the dashboard
        self.defects: list[str] = []  # wrong whatever the servers do
        self.losses: list[str] = []  # wrong unless a server was stopped
        page.on("request", self._request)
        page.on("pageerror", lambda error: self.defects.append(f"page error: {error}"))
        page.on("dialog", self._dialog)
        page.on("console", self._console)
        page.on("requestfailed", self._failure)

    def _request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != self._home:
            self.strangers.append(request.url)

    def _dialog(self, dialog: Any) -> None:
        self.defects.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            is_loss = message.text.startswith("Failed to load resource")
            kind = self.losses if is_loss else self.defects
            kind.append(f"console: {message.text} {message.location.get('url', '')}")

    def _failure(self, request: Any) -> None:
        # A page aborts requests it no longer needs: another coin's candles, its stream on unload.
        if request.failure != "net::ERR_ABORTED":
            self.losses.append(f"failed: {request.url} {request.failure}")


def until_heard(page: Page, heard: list[Any], within_s: float) -> None:
    """Wait until a handler of the page's events has added to `heard`. Playwright runs handlers only
    while one of its methods is called: who merely looks at the list may wait for ever."""
    until(lambda: page.title() is not None and heard, within_s, 0.1)


Open = Callable[..., Page]
Scheme = Literal["light", "dark"]


class Tabs:
    """Watched pages, each in its own browser context unless opened `beside` another."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._watches: list[Watch] = []

    def open(
        self,
        url: str,
        size: tuple[int, int] = WIDE,
        scheme: Scheme = "light",
        with_clock: bool = False,
        beside: Page | None = None,
        script: str = "",
    ) -> Page:
        context = beside.context if beside else self._new_context(size, scheme)
        page = context.new_page()
        page.add_init_script(script)
        home = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        self._watches.append(Watch(page, home))
        if with_clock:
            page.clock.install()
        page.goto(url)
        return page

    def _new_context(self, size: tuple[int, int], scheme: Scheme) -> BrowserContext:
        width, height = size
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        context.set_default_timeout(15_000)
        self._contexts.append(context)
        return context

    def problems(self, with_losses: bool = True) -> list[str]:
        found = []
        for watch in self._watches:
            found += watch.strangers + watch.defects + (watch.losses if with_losses else [])
        return found

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def servers_are_back(system: System) -> Iterator[None]:
    """Restart Redis and the dashboard for the next test, however this one ends."""
    yield
    if system.redis.process.poll() is not None:
        system.redis.start()
        until(system.is_whole, WHOLE_S, 0.2)
    if system.dashboard.process.poll() is not None:
        system.dashboard = system.start_dashboard()
        until(system.is_listening, LISTENS_S)


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Open]:
    """open_page(url, size, scheme, with_clock, beside, script): a page that must do nothing wrong
    until the test ends. `with_clock` lets the test move the page's clock; `beside` opens it as
    another tab of the same browser; `script` runs in it before its own."""
    tabs = Tabs(chromium)
    yield tabs.open
    problems = tabs.problems()
    tabs.close()
    assert not problems


@pytest.fixture
def open_page_in_outage(chromium: Browser) -> Iterator[Open]:
    """Like `open_page`, for a test that stops a server: requests may fail, nothing else may."""
    tabs = Tabs(chromium)
    yield tabs.open
    problems = tabs.problems(with_losses=False)
    tabs.close()
    assert not problems
