"""The rules of the simulated exchange: parameters, weights, limits, and the exchangeInfo answer.

They follow the documentation of the real exchange, https://docs.binance.us/, as of September 2026.
This module knows nothing about candles or faults, and reads no clock.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from demo import market

# Per IP address, by the exchange's clock. Until 2026-08-31 they were 1200 and 5000.
WEIGHT_LIMIT = 6000  # per minute
RAW_LIMIT, RAW_WINDOW_S = 300_000, 300
REFUSALS_TO_BAN = 40  # more than a client with 32 workers has in flight at its first refusal
FIRST_BAN_S, LONGEST_BAN_S = 120, 3 * 86400  # each ban is twice as long as the one before
DEFAULT_LIMIT, MAX_LIMIT = 500, 1000  # candles per answer


class ApiError(Exception):
    """An error answer of the API."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class Limits(NamedTuple):
    """What one IP address may use: `weight` per minute, `raw` requests per RAW_WINDOW_S."""

    weight: int = WEIGHT_LIMIT
    raw: int = RAW_LIMIT


# --- parsing calls ---


@dataclass
class Call:
    """A request to the API; if it has an `error`, only its `path` is valid."""

    path: str
    params: dict[str, str] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()  # as asked for; empty means all
    weight: int = 1
    error: ApiError | None = None

    @property
    def interval(self) -> str:
        return self.params.get("interval", "")

    @property
    def limit(self) -> int:
        """The number of candles to answer with; 0 if the call is not for candles."""
        if not self.path.endswith("klines"):
            return 0
        return min(int(self.params.get("limit", DEFAULT_LIMIT)), MAX_LIMIT)

    def time_ms(self, name: str) -> int | None:
        return int(self.params[name]) if name in self.params else None


_PARAMS = {
    "/api/v3/ping": (),
    "/api/v3/time": (),
    "/api/v3/exchangeInfo": (
        "symbol",
        "symbols",
        "permissions",
        "showPermissionSets",
        "symbolStatus",
    ),
    "/api/v3/klines": ("symbol", "interval", "startTime", "endTime", "timeZone", "limit"),
    "/api/v3/ticker/24hr": ("symbol", "symbols", "type"),
    "/api/v3/ticker/price": ("symbol", "symbols"),
}
_SYMBOL = "[A-Z0-9-_.]{1,20}"
_LEGAL = {
    "symbol": f"^{_SYMBOL}$",
    "symbols": f'^\\[("{_SYMBOL}"(,"{_SYMBOL}"){{0,}}){{0,1}}\\]$',
    "permissions": '^([A-Z0-9_]+|\\["[A-Z0-9_]+"(,"[A-Z0-9_]+"){0,}\\])$',
    "timeZone": "^[+-]?[0-9]{1,2}(:[0-9]{2})?$",
    **dict.fromkeys(("limit", "startTime", "endTime"), "^[0-9]{1,20}$"),
}
_CHOICES = {
    "type": ("FULL", "MINI"),
    "symbolStatus": ("TRADING", "HALT", "BREAK"),
    "showPermissionSets": ("true", "false"),
}
_FIRST_ZONE_MIN, _LAST_ZONE_MIN = -12 * 60, 14 * 60


def read_call(method: str, path: str, query: str, weight_factor: int = 1) -> Call:
    """Parse a request; the call has an `error` if the exchange would reject it."""
    try:
        params = _read_params(method, path, query)
        _check_values(path, params)
    except ApiError as error:
        return Call(path, error=error)
    symbols = [params["symbol"]] if "symbol" in params else json.loads(params.get("symbols", "[]"))
    return Call(path, params, tuple(symbols), _weight(path, len(symbols), weight_factor))


def _read_params(method: str, path: str, query: str) -> dict[str, str]:
    known = _PARAMS.get(path)
    if known is None:
        raise ApiError(-1000, f"No such path: {path}", 404)
    if method != "GET":
        raise ApiError(-1000, f"Request method '{method}' is not supported.", 405)
    pairs = parse_qsl(query, keep_blank_values=True)
    params = dict(pairs)
    if len(params) < len(pairs):
        raise ApiError(-1101, "Duplicate values for a parameter detected.")
    if len(params) > len(known):
        counts = f"expected '{len(known)}' and received '{len(params)}'"
        raise ApiError(-1101, f"Too many parameters; {counts}.")
    read = len(params.keys() & set(known))
    if read < len(params):
        counts = f"read '{read}' parameter(s) but was sent '{len(params)}'"
        raise ApiError(-1104, f"Not all sent parameters were read; {counts}.")
    return params


def _check_values(path: str, params: dict[str, str]) -> None:
    for name, text in params.items():
        if not text:
            raise ApiError(-1105, f"Parameter '{name}' was empty.")
        legal = _LEGAL.get(name, "")
        if legal and not re.fullmatch(legal, text):
            where = f"in parameter '{name}'; legal range is '{legal}'"
            raise ApiError(-1100, f"Illegal characters found {where}.")
    for name in ("symbol", "interval") if path.endswith("klines") else ():
        if name not in params:
            problem = "was not sent, was empty/null, or malformed"
            raise ApiError(-1102, f"Mandatory parameter '{name}' {problem}.")
    # Symbols are chosen in one way only: by name, by names, or by what they have in common.
    chosen_by = [{"symbol"}, {"symbols"}, {"permissions", "symbolStatus"}]
    if sum(bool(names & params.keys()) for names in chosen_by) > 1:
        raise ApiError(-1128, "Combination of optional parameters invalid.")
    if params.get("interval", "1m") not in market.INTERVALS:
        raise ApiError(-1120, "Invalid interval.")
    for name, text in params.items():
        if not _is_valid(name, text):
            raise ApiError(-1130, f"Data sent for parameter '{name}' is not valid.")
    if params.get("symbols") == "[]":
        raise ApiError(-1105, "Parameter 'symbols' was empty.")


def _is_valid(name: str, text: str) -> bool:
    """Whether the parameter may have this value, which has legal characters only."""
    if name == "limit":
        return int(text) >= 1
    if name == "timeZone":
        hours, _, minutes = text.lstrip("+-").partition(":")
        zone_min = int(hours) * 60 + int(minutes or 0)
        return _FIRST_ZONE_MIN <= (-zone_min if text[0] == "-" else zone_min) <= _LAST_ZONE_MIN
    return name not in _CHOICES or text in _CHOICES[name]


def _weight(path: str, symbols: int, factor: int) -> int:
    """The weight of a call for so many symbols (0 = all).

    Whether candles and tickers weigh what is documented or, as on binance.com, twice as much is
    not known; `factor` tells.
    """
    match path.removeprefix("/api/v3/"):
        case "exchangeInfo":
            return 20
        case "klines":
            return factor
        case "ticker/price":
            return factor * (1 if symbols == 1 else 2)
        case "ticker/24hr":
            return factor * (1 if 1 <= symbols <= 20 else 20 if 1 <= symbols <= 100 else 40)
    return 1


# --- limits ---


@dataclass
class Usage:
    """The weight and requests that one IP address has used, and until when it is refused."""

    minute: int = -1
    weight: int = 0
    raw_window: int = -1
    raw_requests: int = 0
    refused_until: float = 0.0
    refused_with: int = 0  # 429, 418 or 0
    ignored: int = 0  # requests sent despite a 429
    bans: int = 0

    def charge(self, weight: int, limits: Limits, now: float) -> None:
        """Count a request at `now`; afterwards `refused_with` says whether to answer it."""
        minute, raw_window = int(now // 60), int(now // RAW_WINDOW_S)
        if minute != self.minute:
            self.minute, self.weight = minute, 0
        if raw_window != self.raw_window:
            self.raw_window, self.raw_requests = raw_window, 0
        self.weight += weight
        self.raw_requests += 1
        if now < self.refused_until:
            self.ignored += self.refused_with == 429
            if self.ignored >= REFUSALS_TO_BAN:
                self.refuse(418, now + min(FIRST_BAN_S * 2**self.bans, LONGEST_BAN_S))
                self.bans += 1
        elif self.weight > limits.weight:
            self.refuse(429, (minute + 1) * 60)
        elif self.raw_requests > limits.raw:
            self.refuse(429, (raw_window + 1) * RAW_WINDOW_S)
        else:
            self.refuse(0, 0.0)

    def refuse(self, status: int, until: float) -> None:
        self.refused_with, self.refused_until, self.ignored = status, until, 0

    def refusal(self, weight_limit: int) -> str:
        """The error message for a refused client."""
        if self.refused_with == 418:
            until_ms = int(self.refused_until * 1000)
            return f"Way too much request weight used; IP banned until {until_ms}."
        limit = f"current limit is {weight_limit} request weight per 1 MINUTE"
        return f"Too much request weight used; {limit}."


# --- exchangeInfo ---

_SYMBOL_INFO = {
    "baseAssetPrecision": 8,
    "quotePrecision": 8,
    "quoteAssetPrecision": 8,
    "baseCommissionPrecision": 8,
    "quoteCommissionPrecision": 8,
    "orderTypes": [
        "LIMIT",
        "LIMIT_MAKER",
        "MARKET",
        "STOP_LOSS",
        "STOP_LOSS_LIMIT",
        "TAKE_PROFIT",
        "TAKE_PROFIT_LIMIT",
    ],
    "icebergAllowed": True,
    "ocoAllowed": True,
    "otoAllowed": True,
    "opoAllowed": True,
    "quoteOrderQtyMarketAllowed": True,
    "allowTrailingStop": True,
    "cancelReplaceAllowed": True,
    "amendAllowed": True,
    "pegInstructionsAllowed": True,
    "isSpotTradingAllowed": True,
    "isMarginTradingAllowed": False,
    "permissions": [],  # what was here is in permissionSets
    "permissionSets": [["SPOT"]],
    "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
    "allowedSelfTradePreventionModes": [
        "EXPIRE_TAKER",
        "EXPIRE_MAKER",
        "EXPIRE_BOTH",
        "DECREMENT",
        "TRANSFER",
    ],
}


def exchange_info(
    statuses: dict[str, str], limits: Limits, now: float, params: dict[str, str]
) -> dict[str, Any]:
    """The answer of exchangeInfo for those symbols in `statuses` that `params` choose."""
    rates = [
        ("REQUEST_WEIGHT", "MINUTE", 1, limits.weight),
        ("ORDERS", "SECOND", 10, 100),
        ("ORDERS", "DAY", 1, 200_000),
        ("RAW_REQUESTS", "MINUTE", RAW_WINDOW_S // 60, limits.raw),
    ]
    names = ("rateLimitType", "interval", "intervalNum", "limit")
    # every symbol has the permission SPOT, and no other
    allowed = "SPOT" in re.findall(r"\w+", params.get("permissions", "SPOT"))
    symbols = [
        _symbol_info(symbol, status)
        for symbol, status in statuses.items()
        if allowed and params.get("symbolStatus", status) == status
    ]
    if params.get("showPermissionSets") == "false":
        symbols = [info | {"permissionSets": []} for info in symbols]
    return {
        "timezone": "UTC",
        "serverTime": int(now * 1000),
        "rateLimits": [dict(zip(names, rate, strict=True)) for rate in rates],
        "exchangeFilters": [],
        "symbols": symbols,
    }


def _symbol_info(symbol: str, status: str) -> dict[str, Any]:
    facts = market.listing(symbol)
    tick, lowest, highest = (
        market.fixed(max(int(ticks), 1), facts.price_decimals)
        for ticks in (1, facts.mean_ticks / 20, facts.mean_ticks * 20)
    )
    lot = market.fixed(1, facts.lot_decimals)
    quantities = {"minQty": lot, "maxQty": "9000000000.00000000", "stepSize": lot}
    return {
        "symbol": symbol,
        "status": status,
        "baseAsset": facts.base,
        "quoteAsset": facts.quote,
        **_SYMBOL_INFO,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": lowest,
                "maxPrice": highest,
                "tickSize": tick,
            },
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": "5",
                "multiplierDown": "0.2",
                "avgPriceMins": 5,
            },
            {"filterType": "LOT_SIZE", **quantities},
            {
                "filterType": "MIN_NOTIONAL",
                "minNotional": "1.00000000",
                "applyToMarket": True,
                "avgPriceMins": 5,
            },
            {"filterType": "ICEBERG_PARTS", "limit": 10},
            {"filterType": "MARKET_LOT_SIZE", **quantities},
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        ],
    }
