"""GET /health, /metrics and /api/v3/: the reports are pure functions of a view of the service.

Knows nothing of locks, Redis and the exchange: it asks nobody and waits for nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from binance_answers import TIMEFRAME_MS, Outdated
from candles import PRICE, Feed, Series
from http_server import JsonHandler, JsonServer
from journal import Problem
from rate_limiter import HOLD_S, LimiterState
from redis_log import iso_ms
from settings import VERSION, Settings
from store import StoreView, is_unknown

State = Callable[[], tuple[int, dict[str, Any]]]
Api = Callable[[str, str], tuple[int, bytes]]  # of a path and a query: status and JSON


class View(NamedTuple):
    """The service at one moment. Instants are of `boot_s`, but for `wall_s`."""

    settings: Settings
    store: StoreView
    instance: str  # this one's token
    leader: str  # the token of who leads; "" while that is not known
    problems: dict[str, Problem]
    limiter: LimiterState
    clock_offset_s: float | None  # by how much the exchange's clock is ahead
    requests: dict[str, int]  # by HTTP status
    message_log_length: int
    operations_logged: int
    started_at: float
    now: float
    wall_s: float

    def stands_by(self) -> bool:
        return self.leader not in ("", self.instance)


def report(view: View) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of /health."""
    settings, problems = view.settings, view.problems
    timeframes = {t.name: _part(view, t.name) for t in settings.timeframes}
    prices = _part(view, PRICE)
    status = _status(view, timeframes, prices)
    failing, hold_s = view.store.failing, view.limiter.hold_s
    return 200 if status in ("ok", "degraded", "standby") else 503, {
        "status": status,
        "leader": view.leader or None,
        "instance": view.instance,
        "version": VERSION,
        "uptime_s": round(view.now - view.started_at, 1),
        "symbols": len(settings.symbols),
        "unknown_symbols": [s for s in settings.symbols if is_unknown(failing.get(Feed(s, PRICE)))],
        "halted": view.store.halted,
        "idle": view.store.idle,
        "problems": {what: problem.reason for what, problem in problems.items()},
        "problems_since": {what: iso_ms(problem.since) for what, problem in problems.items()},
        "timeframes": timeframes,
        "prices": prices,
        "redis": {
            "up": "redis" not in problems,
            "message_log_length": view.message_log_length,
            "operations_logged": view.operations_logged,
        },
        "exchange": {
            "used_weight": view.limiter.used_weight,
            "weight_limit": settings.weight_limit,
            "address_weight_limit": view.limiter.limits.weight.units,
            "address_requests_limit": view.limiter.limits.requests.units,
            "hold_until": iso_ms(view.wall_s + hold_s) if hold_s else None,
            "hold_s": round(hold_s, 1),
            "clock_offset_s": view.clock_offset_s and round(view.clock_offset_s, 1),
            "requests": view.requests,
        },
    }


def _status(view: View, timeframes: dict[str, dict[str, Any]], prices: dict[str, Any]) -> str:
    nothing_fresh = any(part["expected"] and not part["fresh"] for part in timeframes.values())
    if "redis" in view.problems or (view.store.filled and nothing_fresh):
        return "down"
    if view.stands_by():
        return "standby"
    if not view.store.filled:
        return "starting"
    parts = [prices, *timeframes.values()]
    whole = all(part["fresh"] >= part["expected"] and not part["failing"] for part in parts)
    return "ok" if whole and not view.limiter.hold_s and not view.problems else "degraded"


def _part(view: View, what: str) -> dict[str, Any]:
    """The part of a timeframe, or of PRICE."""
    feeds = [Feed(symbol, what) for symbol in view.settings.symbols]
    held = {feed.symbol: view.store.held[feed] for feed in feeds if feed in view.store.held}
    fresh = {symbol for symbol, entry in held.items() if entry.expires_at > view.now}
    expected = _expected(view, what)
    asked_at = max((entry.asked_at for entry in held.values()), default=None)
    age_s = view.now - asked_at if asked_at else 0.0
    body: dict[str, Any] = {
        "last_success": iso_ms(view.wall_s - age_s) if asked_at else None,
        "age_s": round(age_s, 1) if asked_at else None,
        "fresh": len(fresh.intersection(expected)),
        "expected": len(expected),
        "standing_still": [
            symbol
            for symbol in expected
            if isinstance(view.store.failing.get(Feed(symbol, what)), Outdated)
        ],
    }
    body |= _of_prices(view, feeds) if what == PRICE else _of_candles(view, feeds, what)
    errors = {feed.symbol: view.store.failing.get(feed) for feed in feeds}
    since = {feed.symbol: view.store.failing_since.get(feed) for feed in feeds}
    return body | {
        "failing": {s: error.reason for s, error in errors.items() if error},
        "failing_since": {s: iso_ms(at) for s, at in since.items() if at},
    }


def _expected(view: View, what: str) -> list[str]:
    """The symbols that should be fresh: a halted market has no new candles, and neither it nor an
    idle one has a price."""
    without = view.store.halted.keys() | (view.store.idle if what == PRICE else ())
    return [symbol for symbol in view.settings.symbols if symbol not in without]


def _newest_age_s(view: View, feeds: list[Feed]) -> float | None:
    """The age of the newest data ever seen of `feeds`, by its own time."""
    newest_ms = max((view.store.newest_ms.get(feed, 0) for feed in feeds), default=0)
    return view.wall_s - newest_ms / 1000 if newest_ms else None


def _of_prices(view: View, feeds: list[Feed]) -> dict[str, Any]:
    age_s = _newest_age_s(view, feeds)
    return {"newest_ticker_age_s": None if age_s is None else round(age_s, 1)}


def _of_candles(view: View, feeds: list[Feed], what: str) -> dict[str, Any]:
    count, seconds = view.store.refreshes.get(what, (0, 0.0))
    age_s = _newest_age_s(view, feeds)
    held = {feed.symbol: view.store.held.get(feed) for feed in feeds}
    series = {symbol: each.candles for symbol, each in held.items() if isinstance(each, Series)}
    return {
        "refreshes": count,
        "refresh_seconds": round(seconds, 3),
        "candles": sum(len(each.times) for each in series.values()),
        # 0: the newest candle is the one that forms now
        "lag_candles": None if age_s is None else max(0, int(age_s * 1000 // TIMEFRAME_MS[what])),
        "left_out": {s: [bad.reason for bad in each.bad] for s, each in series.items() if each.bad},
    }


PATHS = ["/health", "/metrics", "/api/v3/"]
STATUSES = ("ok", "degraded", "standby", "starting", "down")
# How the exchange refuses: counted from 0, or Prometheus would see no increase by the first one.
REFUSALS = dict.fromkeys(map(str, HOLD_S), 0)
# What clients of the exchange look at, to learn how much of its limit they have used.
NO_WEIGHT = {"X-MBX-USED-WEIGHT": "0", "X-MBX-USED-WEIGHT-1M": "0"}


def metrics(health: dict[str, Any]) -> str:
    """The body of /health in the text format of Prometheus, version 0.0.4:
    https://prometheus.io/docs/instrumenting/exposition_formats/"""
    lines: list[str] = []
    for name, kind, about, label, samples in [*_own_metrics(health), *_outer_metrics(health)]:
        lines.append(f"# HELP market_data_{name} {about}\n# TYPE market_data_{name} {kind}")
        for key, value in samples.items() if label else [("", samples)]:
            if value is None:  # not known yet
                continue
            labels = f"{{{label}={json.dumps(key)}}}" if label else ""
            lines.append(f"market_data_{name}{labels} {float(value)}")
    return "\n".join(lines) + "\n"


# A metric: name, kind, help, label; and its value, or by value of the label, if it has one.
Metric = tuple[str, str, str, str, Any]


def _own_metrics(health: dict[str, Any]) -> list[Metric]:
    """What the service says of itself and of its data."""
    frames = health["timeframes"]
    parts = {**frames, PRICE: health["prices"]}
    status = {status: status == health["status"] for status in STATUSES}
    leads = health["leader"] == health["instance"]
    problems = dict.fromkeys(health["problems"], 1)
    fresh = {name: part["fresh"] for name, part in parts.items()}
    expected = {name: part["expected"] for name, part in parts.items()}
    still = {name: len(part["standing_still"]) for name, part in parts.items()}
    lags = {n: part["lag_candles"] for n, part in frames.items() if part["lag_candles"] is not None}
    ticker_age_s = health["prices"]["newest_ticker_age_s"]
    failing = {name: len(part["failing"]) for name, part in parts.items()}
    ages = {name: part["age_s"] for name, part in parts.items() if part["age_s"] is not None}
    counts = {name: part["refreshes"] for name, part in frames.items()}
    seconds = {name: part["refresh_seconds"] for name, part in frames.items()}
    return [
        ("build_info", "gauge", "Always 1.", "version", {health["version"]: 1}),
        ("uptime_seconds", "gauge", "Since the start.", "", health["uptime_s"]),
        ("status", "gauge", "1 for that of /health, 0 for the others.", "status", status),
        ("leader", "gauge", "Whether this instance fetches.", "", leads),
        ("problem", "gauge", "1 for each of /health.", "what", problems),
        ("symbols", "gauge", "Symbols that are asked for.", "", health["symbols"]),
        ("symbols_expected", "gauge", "Those not halted or idle.", "what", expected),
        ("symbols_fresh", "gauge", "Symbols with data younger than its TTL.", "what", fresh),
        ("symbols_standing_still", "gauge", "Those whose data is old.", "what", still),
        ("lag_candles", "gauge", "Candles since the newest, 0 if it forms now.", "what", lags),
        ("newest_ticker_age_seconds", "gauge", "By its own time.", "", ticker_age_s),
        ("symbols_failing", "gauge", "Symbols whose last read failed.", "what", failing),
        ("age_seconds", "gauge", "Age of the newest data.", "what", ages),
        ("refreshes_total", "counter", "Refreshes.", "timeframe", counts),
        ("refresh_seconds_total", "counter", "Time spent refreshing.", "timeframe", seconds),
    ]


def _outer_metrics(health: dict[str, Any]) -> list[Metric]:
    """What it knows of the exchange and of Redis."""
    exchange, redis = health["exchange"], health["redis"]
    requests = REFUSALS | exchange["requests"]
    length, logged = redis["message_log_length"], redis["operations_logged"]
    about_requests = "Requests to the exchange, by HTTP status or none."
    limit, of_address = exchange["weight_limit"], exchange["address_weight_limit"]
    offset_s = exchange["clock_offset_s"]
    return [
        ("requests_total", "counter", about_requests, "status", requests),
        ("used_weight", "gauge", "Used by this address in a minute.", "", exchange["used_weight"]),
        ("weight_limit", "gauge", "Weight that this program may use.", "", limit),
        ("address_weight_limit", "gauge", "Weight that this address may use.", "", of_address),
        ("clock_offset_seconds", "gauge", "Of the exchange's clock to this one.", "", offset_s),
        ("hold_seconds", "gauge", "Until the exchange may be asked again.", "", exchange["hold_s"]),
        ("redis_up", "gauge", "Whether Redis takes data.", "", redis["up"]),
        ("message_log_entries", "gauge", "Length of the message log.", "", length),
        ("operations_logged_total", "counter", "Entries written to it.", "", logged),
    ]


class _HealthHandler(JsonHandler):
    server: HealthServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.startswith("/api/"):
            status, body = self.server.api(path, query)
            self.send_bytes(status, body, "application/json;charset=UTF-8", **NO_WEIGHT)
        elif path == "/health":
            self.send_json(*self.server.state())
        elif path == "/metrics":
            text = metrics(self.server.state()[1])
            self.send_bytes(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self.send_json(404, {"error": "not found", "paths": PATHS})

    do_HEAD = do_GET


class HealthServer(JsonServer):
    """Serves `state()`, a pair of HTTP status and JSON object, at /health and as /metrics, and what
    `api` answers below /api/."""

    def __init__(
        self, host: str, port: int, state: State, api: Api, names: Iterable[str] = ()
    ) -> None:
        self.state, self.api = state, api
        super().__init__(host, port, _HealthHandler, names)
