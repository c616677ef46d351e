"""Recorded answers of the exchange, and whether they agree with what the project believes of it.

Reads the files that `demo.record` writes. An answer is judged by the functions that the service
itself uses; the names of fields are compared with those of the simulated exchange.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from binance_answers import (
    LIMITS,
    MAX_CANDLES,
    MAX_TICKER_SYMBOLS,
    TIMEFRAME_MS,
    BadResponse,
    BinanceError,
    Limit,
    error_of,
    parse_json,
    parse_klines,
    parse_listing,
    parse_tickers,
)
from demo.exchange import Exchange
from rate_limiter import HOLD_S

ACCEPTED = "accepted"
NONE = "none"
# Of each kind of question, as BinanceClient charges them.
WEIGHTS = {
    "exchangeInfo": 20,
    "klines": 1,
    f"klines of {MAX_CANDLES}": 1,
    "ticker/24hr of 1": 1,
    f"ticker/24hr of {MAX_TICKER_SYMBOLS}": 1,
}
# The answers that are errors, by name.
ERRORS = {
    "klines-unknown-symbol": "HTTP 400, code -1121",
    "klines-invalid-interval": "HTTP 400, code -1120",
}
# Statuses that mean "go away": asking on would only make it worse.
REFUSALS = tuple(HOLD_S)
STATUSES = {"TRADING", "HALT", "BREAK"}
CLOCK_OFF_MS = 1000
SHOWN = 60  # characters of a list of names


class Answer(NamedTuple):
    """A question and its answer; `asked_at` in epoch seconds."""

    name: str
    path: str
    params: dict[str, str]
    asked_at: float
    status: int
    headers: dict[str, str]
    body: str

    def as_record(self) -> dict[str, Any]:
        """The content of its file."""
        return {
            "question": {"path": self.path, "params": self.params},
            "asked_at": datetime.fromtimestamp(self.asked_at, UTC).isoformat(),
            "status": self.status,
            "headers": self.headers,
            "body": self.body,
        }

    @classmethod
    def of_record(cls, name: str, record: dict[str, Any]) -> Answer:
        question, asked_at = record["question"], datetime.fromisoformat(record["asked_at"])
        return cls(
            name,
            question["path"],
            question["params"],
            asked_at.timestamp(),
            record["status"],
            record["headers"],
            record["body"],
        )

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def symbols(self) -> list[str]:
        """Those that were asked for, or BTCUSDT for all."""
        if "symbols" in self.params:
            return [str(symbol) for symbol in json.loads(self.params["symbols"])]
        return [self.params.get("symbol", "BTCUSDT")]

    @property
    def kind(self) -> str:
        """The key of WEIGHTS; "" for a question whose weight the project does not rely on."""
        path = self.path.removeprefix("/api/v3/")
        if path == "ticker/24hr":
            path += f" of {len(self.symbols)}"
        elif self.params.get("limit") == str(MAX_CANDLES):
            path += f" of {MAX_CANDLES}"
        return path if path in WEIGHTS and self.status == 200 else ""

    @property
    def used_weight(self) -> int | None:
        headers = {name.lower(): text for name, text in self.headers.items()}
        text = headers.get("x-mbx-used-weight-1m", "")
        return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


class Finding(NamedTuple):
    """One point of the picture; `relied_on` if the service is wrong where they differ."""

    what: str
    believed: str
    recorded: str
    relied_on: bool = True


def read_answers(folder: Path) -> list[Answer]:
    """The answers in `folder`, in the order in which they came."""
    records = ((path.stem, json.loads(path.read_text("utf-8"))) for path in folder.glob("*.json"))
    return sorted((Answer.of_record(*each) for each in records), key=lambda each: each.asked_at)


def findings(answers: Sequence[Answer]) -> list[Finding]:
    """Each point of the picture that the answers tell something of."""
    found: list[Finding] = []
    for answer in answers:
        believed, relied_on = ERRORS.get(answer.name, ACCEPTED), answer.status not in REFUSALS
        found.append(Finding(answer.name, believed, judged(answer), relied_on))
        if answer.status == 200 and judged(answer) == ACCEPTED:
            found += _details(answer)
    measured = weights(answers)
    for kind in (kind for kind in WEIGHTS if kind in measured):
        found.append(Finding(f"weight of {kind}", str(WEIGHTS[kind]), str(measured[kind])))
    return list(dict.fromkeys(found))  # both listings tell of the limits


def differing(found: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.believed != finding.recorded]


# --- one answer ---


def judged(answer: Answer) -> str:
    """ACCEPTED, or what the service says of the answer."""
    if answer.status != 200:
        error = error_of(answer.status, answer.body.encode())
        code = f"HTTP {answer.status}, code {error.code}"
        return code if error.code else error.reason[:SHOWN]
    try:
        return _problem(answer) or ACCEPTED
    except BinanceError as error:
        return error.reason


def _problem(answer: Answer) -> str:
    """What is wrong with an answer, or "". Raises BinanceError if nothing of it can be used."""
    body, now_ms = answer.body.encode(), int(answer.asked_at * 1000)
    if answer.path.endswith("klines"):
        bad = parse_klines(body, answer.params["interval"], now_ms).bad
        return f"{len(bad)} bad candles, first: {bad[0].reason}" if bad else ""
    value = parse_json(body)
    if answer.path.endswith("ticker/24hr"):
        rows = [value] if "symbol" in answer.params else value
        tickers = parse_tickers(rows, answer.symbols, now_ms)
        bad_tickers = [each for each in tickers.values() if isinstance(each, BadResponse)]
        return bad_tickers[0].reason if bad_tickers else ""
    if answer.path.endswith("exchangeInfo"):
        listed = parse_listing(value, answer.symbols).statuses
        return next((f"{name} is not listed" for name in answer.symbols if name not in listed), "")
    has_time = isinstance(value, dict) and type(value.get("serverTime")) is int
    return "" if has_time else "no serverTime in the answer"


def _details(answer: Answer) -> list[Finding]:
    """The points of an answer that the service accepts."""
    if answer.path.endswith("exchangeInfo"):
        return _listing_details(answer) + _field_details(answer)
    if answer.path.endswith("ticker/24hr"):
        return _field_details(answer)
    if answer.path.endswith("klines"):
        return _candle_details(answer)
    off_ms = abs(answer.json["serverTime"] - answer.asked_at * 1000)
    clock = "as this one" if off_ms < CLOCK_OFF_MS else f"{off_ms / 1000:.1f} s off"
    return [Finding("the exchange's clock", "as this one", clock, relied_on=False)]


def _listing_details(answer: Answer) -> list[Finding]:
    limits = parse_listing(answer.json, answer.symbols).limits
    names = ("weight for an address", "requests for an address")
    found = [
        Finding(what, _limit_text(believed), _limit_text(recorded))
        for what, believed, recorded in zip(names, LIMITS, limits or (None, None), strict=True)
    ]
    other = {str(entry["status"]) for entry in answer.json["symbols"]} - STATUSES
    return [*found, Finding("other statuses of symbols", NONE, _names(other), relied_on=False)]


def _limit_text(limit: Limit | None) -> str:
    return f"{limit.units:,} in {limit.window_s} s" if limit else "not said"


def _candle_details(answer: Answer) -> list[Finding]:
    interval, rows = answer.params["interval"], answer.json
    steps = [later[0] - earlier[0] for earlier, later in pairwise(rows)]
    gaps = sum(step != TIMEFRAME_MS[interval] for step in steps)
    found = [
        Finding(f"{answer.name}: rows", answer.params["limit"], str(len(rows)), relied_on=False),
        Finding(f"{answer.name}: fields", "12", _names({str(len(r)) for r in rows}), False),
    ]
    if answer.name != "klines-break":  # delisted and listed again, a market has gaps of years
        found.append(Finding(f"{answer.name}: gaps", "0", str(gaps), relied_on=False))
    return found


# --- fields ---


def _field_details(answer: Answer) -> list[Finding]:
    """Fields that the simulated exchange does not have, or has alone."""
    query, simulated = urlencode(answer.params), Exchange(answer.symbols)
    reply, _ = simulated.serve("GET", answer.path, query, "127.0.0.1")
    believed, recorded = fields(reply.value), fields(answer.json)
    return [
        Finding(f"{answer.name}: {what}", NONE, _names(names), relied_on=False)
        for what, names in (
            ("new fields", recorded - believed),
            ("fields gone", believed - recorded),
        )
    ]


def fields(value: Any, prefix: str = "") -> set[str]:
    """The names of all fields in a JSON value, those inside others as `outer.inner`."""
    if isinstance(value, list):
        return {name for each in value for name in fields(each, prefix)}
    if not isinstance(value, dict):
        return set()
    here = {f"{prefix}{name}" for name in value}
    return here.union(*(fields(each, f"{prefix}{name}.") for name, each in value.items()))


def _names(names: set[str]) -> str:
    """The names in one line, as many as fit."""
    shown: list[str] = []
    for name in sorted(names):
        if len(", ".join([*shown, name])) > SHOWN:
            return ", ".join(shown) + f" and {len(names) - len(shown)} more"
        shown.append(name)
    return ", ".join(shown) or NONE


# --- weights ---


def weights(answers: Sequence[Answer]) -> dict[str, int]:
    """What each kind of question weighs: by how much the used weight grew, at least, since the
    answer before. Other programs on the address can only make it more."""
    found: dict[str, int] = {}
    for before, answer in pairwise(answers):
        if before.used_weight is None or answer.used_weight is None:
            continue
        grown = answer.used_weight - before.used_weight
        if grown > 0 and answer.kind:  # it shrinks when a minute ends
            found[answer.kind] = min(grown, found.get(answer.kind, grown))
    return found
