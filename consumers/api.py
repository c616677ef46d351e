"""What the dashboard answers under /api/, from what live.py holds and, for charts and the message
log, from Redis at each request. Knows nothing of HTTP but a request's parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from consumers import live
from consumers.chart import chart
from consumers.live import Activity, Board, Watch
from consumers.market_cache import SYMBOL, MarketCache, now_ms, timeframe_ms
from consumers.ta_service import SIGNALS
from consumers.trades import Filter, TradesLog, read_positions
from redis_log import TYPES, check_source, log_extent, read_log

Parameters = dict[str, str]
REPEATED, SEPARATOR = "type", ","  # type=trade&type=error is the same as type=trade,error
Answer = dict[str, Any]


class BadRequest(ValueError):
    """The message says what is accepted."""


class Api:
    """One method a path. Each raises BadRequest, market_cache.NoData or redis.RedisError."""

    def __init__(
        self, cache: MarketCache, board: Board, activity: Activity, watch: Watch, log_key: str
    ) -> None:
        self._cache, self._client, self._log_key = cache, cache.client, log_key
        self._board, self._activity, self._watch = board, activity, watch
        self._trades_log = TradesLog(cache.client)
        self.routes: dict[str, Callable[[Parameters], Answer]] = {
            "/api/scanner": self._scanner,
            "/api/status": self._status,
            "/api/chart": self._chart,
            "/api/redis/log": self._message_log,
            "/api/positions": self._positions,
            "/api/trades": self._trades,
        }

    def answer(self, path: str, query: str) -> Answer:
        """The JSON body for one of `routes`."""
        return self.routes[path](_parameters(query))

    def trades_csv(self, query: str) -> bytes:
        """All closed trades that pass the filters of /api/trades."""
        parameters = _parameters(query)
        _accept(parameters, *Filter._fields)
        return self._trades_log.csv(_trade_filter(parameters)).encode()

    def _scanner(self, parameters: Parameters) -> Answer:
        _accept(parameters)
        return {
            "timestamp": now_ms(),
            "redis": self._watch.redis(),
            "trouble": self._watch.trouble(),
            "expires_at": self._board.expires_at(),  # before the values, so that none is left out
            "timeframes": self._board.timeframes(),
            "updates": self._board.updates(),
            "symbols": self._board.rows(),
        }

    def _status(self, parameters: Parameters) -> Answer:
        _accept(parameters)
        now, state = now_ms(), self._watch.state
        consumers = {
            name: life and life | {"alive": _is_alive(life, now)}
            for name, life in state["consumers"].items()
        }
        return {
            "timestamp": now,
            **state,
            "trouble": self._watch.trouble(),
            "consumers": consumers,
            "updates": self._board.updates(),
            "messages_per_minute": self._activity.per_minute(),
        }

    def _chart(self, parameters: Parameters) -> Answer:
        _accept(parameters, "symbol", "timeframe")
        symbol, timeframe = parameters.get("symbol", ""), parameters.get("timeframe", "")
        _check_symbol(symbol)
        _check_timeframe(timeframe)
        return chart(self._cache, symbol, timeframe, self._log_key)

    def _message_log(self, parameters: Parameters) -> Answer:
        """?limit=100&type=&source=&before=&since=&until=&q=, as `read_log` takes them."""
        filters: dict[str, Any] = parameters.copy()
        _accept(filters, "limit", "type", "source", "before", "since", "until", "q")
        limit = _limit(filters.pop("limit", "100"))
        types = filters.pop("type").split(SEPARATOR) if "type" in filters else None
        if unknown := set(types or ()) - set(TYPES):
            raise BadRequest(f"type={min(unknown)!r}: must be one of {' '.join(TYPES)}")
        try:
            if "source" in filters:
                check_source(filters["source"])
            entries = read_log(self._client, limit, types, key=self._log_key, **filters)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        length, oldest, _ = log_extent(self._client, types, key=self._log_key)
        return {"length": length, "reaches_back_to": oldest, "entries": entries}

    def _positions(self, parameters: Parameters) -> Answer:
        _accept(parameters)
        now = now_ms()
        return {
            "timestamp": now,
            **read_positions(self._client, self._board.prices()),
            "trouble": self._watch.trouble(),
            "trader_alive": _is_alive(self._watch.state["consumers"].get("trader-bot"), now),
        }

    def _trades(self, parameters: Parameters) -> Answer:
        _accept(parameters, *Filter._fields, "limit", "before")
        limit, before = _limit(parameters.get("limit", "50")), parameters.get("before", "")
        if before and not re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", before):
            raise BadRequest(f"before={before!r}: must be the id of a trade")
        return self._trades_log.answer(_trade_filter(parameters), limit, before)


def _trade_filter(parameters: Parameters) -> Filter:
    """Which closed trades are asked for; an empty parameter is like none."""
    wanted = Filter(**{name: parameters.get(name, "") for name in Filter._fields})
    if wanted.symbol:
        _check_symbol(wanted.symbol)
    if wanted.signal not in ("", *SIGNALS):
        raise BadRequest(f"signal={wanted.signal!r}: must be one of {' '.join(SIGNALS)}")
    if wanted.timeframe:
        _check_timeframe(wanted.timeframe)
    return wanted


def _check_symbol(symbol: str) -> None:
    if not SYMBOL.fullmatch(symbol):
        raise BadRequest(f"symbol={symbol!r}: must be one of the exchange's, like BTCUSDT")


def _check_timeframe(timeframe: str) -> None:
    try:
        timeframe_ms(timeframe)
    except ValueError as error:
        raise BadRequest(f"timeframe={timeframe!r}: {error}") from None


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1000:
        raise BadRequest(f"limit={text!r}: must be a whole number from 1 to 1000")
    return int(text)


def _is_alive(life: dict[str, Any] | None, now: int) -> bool:
    """Whether a consumer gave this sign of life a short time before `now` (ms UTC)."""
    return life is not None and abs(now - life["timestamp"]) < live.DEAD_AFTER_S * 1000


def _parameters(query: str) -> Parameters:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError as error:
        raise BadRequest(f"bad query: {error}") from None
    parameters: Parameters = {}
    for name, value in pairs:
        if name in parameters and name != REPEATED:
            raise BadRequest(f"each parameter only once, but for {REPEATED}")
        before = parameters[name] + SEPARATOR if name in parameters else ""
        parameters[name] = before + value
    return parameters


def _accept(parameters: Parameters, *names: str) -> None:
    if unknown := parameters.keys() - set(names):
        accepted = f"only {' '.join(names)}" if names else "none"
        raise BadRequest(f"unknown parameter {min(unknown)!r}; accepted: {accepted}")
