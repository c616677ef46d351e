"""GET /health, /metrics and /api/v3/ over http.server.

Knows nothing of the service: it is handed callables that return its state and answer for the
exchange, and only reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from http_server import JsonHandler, JsonServer

State = Callable[[], tuple[int, dict[str, Any]]]
Api = Callable[[str, str], tuple[int, bytes]]  # of a path and a query: status and JSON


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


PATHS = ["/health", "/metrics", "/api/v3/"]
STATUSES = ("ok", "degraded", "standby", "starting", "down")
# How the exchange refuses: counted from 0, or Prometheus would see no increase by the first one.
REFUSALS = dict.fromkeys(("403", "418", "429", "451"), 0)
# What clients of the exchange look at, to learn how much of its limit they have used.
NO_WEIGHT = {"X-MBX-USED-WEIGHT": "0", "X-MBX-USED-WEIGHT-1M": "0"}


def metrics(health: dict[str, Any]) -> str:
    """The body of /health in the text format of Prometheus, version 0.0.4:
    https://prometheus.io/docs/instrumenting/exposition_formats/"""
    exchange, store, frames = health["exchange"], health["redis"], health["timeframes"]
    parts = {**frames, "price": health["prices"]}
    leads = health["leader"] == health["instance"]
    ages = {name: part["age_s"] for name, part in parts.items() if part["age_s"] is not None}
    lines: list[str] = []

    def add(name: str, kind: str, about: str, samples: Any, label: str = "") -> None:
        lines.append(f"# HELP market_data_{name} {about}\n# TYPE market_data_{name} {kind}")
        for key, value in samples.items() if label else [("", samples)]:
            labels = f"{{{label}={json.dumps(key)}}}" if label else ""
            lines.append(f"market_data_{name}{labels} {float(value)}")

    add("build_info", "gauge", "Always 1.", {health["version"]: 1}, "version")
    add("uptime_seconds", "gauge", "Since the start.", health["uptime_s"])
    add(
        "status",
        "gauge",
        "1 for that of /health, 0 for the others.",
        {status: status == health["status"] for status in STATUSES},
        "status",
    )
    add("leader", "gauge", "Whether this instance fetches.", leads)
    add("problem", "gauge", "1 for each of /health.", dict.fromkeys(health["problems"], 1), "what")
    add("symbols", "gauge", "Symbols that are asked for.", health["symbols"])
    fresh = {name: part["fresh"] for name, part in parts.items()}
    failing = {name: len(part["failing"]) for name, part in parts.items()}
    add("symbols_fresh", "gauge", "Symbols with data younger than its TTL.", fresh, "what")
    add("symbols_failing", "gauge", "Symbols whose last read failed.", failing, "what")
    add("age_seconds", "gauge", "Age of the newest data.", ages, "what")
    for name, about in (("refreshes", "Refreshes."), ("refresh_seconds", "Time spent refreshing.")):
        counts = {frame: of[name] for frame, of in frames.items()}
        add(f"{name}_total", "counter", about, counts, "timeframe")
    add(
        "requests_total",
        "counter",
        "Requests to the exchange, by HTTP status or none.",
        REFUSALS | exchange["requests"],
        "status",
    )
    add("used_weight", "gauge", "Used by this address in a minute.", exchange["used_weight"])
    add("weight_limit", "gauge", "Weight that this program may use.", exchange["weight_limit"])
    add("hold_seconds", "gauge", "Until the exchange may be asked again.", exchange["hold_s"])
    add("redis_up", "gauge", "Whether Redis takes data.", store["up"])
    add("message_log_entries", "gauge", "Length of the message log.", store["message_log_length"])
    add("operations_logged_total", "counter", "Entries written to it.", store["operations_logged"])
    return "\n".join(lines) + "\n"


class HealthServer(JsonServer):
    """Serves `state()`, a pair of HTTP status and JSON object, at /health and as /metrics, and what
    `api` answers below /api/."""

    def __init__(self, host: str, port: int, state: State, api: Api) -> None:
        self.state, self.api = state, api
        super().__init__(host, port, _HealthHandler)
