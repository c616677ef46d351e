"""Technical analysis of closed candles at each refresh: writes indicators, publishes signals.

Writes EMA ribbon, TTM Squeeze and Stochastic RSI of each series to
`ta:indicators:{symbol}:{timeframe}`. When a state has changed since the last closed candle that was
analysed, it publishes a signal on `ta:signals`. The state is in Redis too, so a restart repeats no
signal, and a change that happened while this program was away is still published, once.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import redis

import journal
from consumers import indicators, program
from consumers.market_cache import (
    SYMBOL,
    Candle,
    Candles,
    MarketCache,
    Update,
    check_time,
    now_ms,
    parse_json,
    timeframe_ms,
)
from environment import Environment
from redis_log import Batch, Entry, read_log

SIGNALS_CHANNEL = "ta:signals"
SIGNALS = tuple(
    f"{what}_{way}" for what in ("ribbon", "squeeze", "stoch_rsi") for way in ("up", "down")
)
MAX_SIGNALS = 1000  # read back from the message log, of all series together
STATE_TTL_S = 7 * 86_400.0  # an older state is nothing to compare with


def indicators_key(symbol: str, timeframe: str) -> str:
    return f"ta:indicators:{symbol}:{timeframe}"


def state_key(symbol: str, timeframe: str) -> str:
    return f"ta:state:{symbol}:{timeframe}"


def update_channel(timeframe: str) -> str:
    return f"ta:update:{timeframe}"


class Signal(NamedTuple):
    """One message on `ta:signals`: the change `signal`, one of SIGNALS, between the closed candles
    that opened at `previous_candle` and at `candle`, whose close is `price`. Times are ms UTC."""

    symbol: str
    timeframe: str
    signal: str
    price: float
    candle: int
    previous_candle: int
    timestamp: int


def parse_signal(payload: str) -> Signal:
    """Raises market_cache.BAD_DATA if this program cannot have published it."""
    body = dict(parse_json(payload))
    body.pop("db", None)  # which MarketCache has looked at
    signal = Signal(**body)
    timeframe_ms(signal.timeframe)
    if not SYMBOL.fullmatch(signal.symbol) or signal.signal not in SIGNALS:
        raise ValueError("unknown symbol or signal")
    if {type(each) for each in (signal.candle, signal.previous_candle, signal.timestamp)} != {int}:
        raise ValueError("a time is not a whole number")
    return signal


class Summary(NamedTuple):
    """What the message log says of a signal, in one line of text."""

    symbol: str
    timeframe: str
    signal: str
    price: float

    def __str__(self) -> str:
        return f"{self.symbol} {self.timeframe} {self.signal} at {self.price!r}"


def parse_summary(text: str) -> Summary:
    """The inverse of `str(Summary)`. Raises ValueError if the text is not a signal's."""
    symbol, timeframe, name, at, price = text.split(" ")
    timeframe_ms(timeframe)
    if not SYMBOL.fullmatch(symbol) or name not in SIGNALS or at != "at":
        raise ValueError(f"not a signal: {text!r}")
    summary = Summary(symbol, timeframe, name, float(price))
    if str(summary) != text or not math.isfinite(summary.price):
        raise ValueError(f"not a price: {price!r}")
    return summary


def newest_signals(client: redis.Redis, log_key: str) -> list[Entry]:
    """The last signals of all series in the message log, newest first.

    Raises redis.RedisError.
    """
    return read_log(client, MAX_SIGNALS, "signal", key=log_key)


def logged_signals(entries: Iterable[Entry]) -> Iterator[tuple[Summary, int]]:
    """Those entries of the message log that are signals of this program, and when each was
    published (ms UTC)."""
    for entry in entries:
        try:
            said = parse_summary(entry["summary"])
            said_ms = int(datetime.fromisoformat(entry["timestamp"]).timestamp() * 1000)
        except (KeyError, OverflowError, ValueError):
            continue
        yield said, said_ms


class State(NamedTuple):
    """What signals are changes of, after the closed candle that opened at `candle` (ms UTC).

    A mixed ribbon, or an indicator that cannot be computed, leaves its part as it was; None means
    never known. `last_down` is when a down signal was last published (ms UTC, 0: never), for
    traders that were away then.
    """

    candle: int
    ribbon: str | None  # "up" or "down"
    squeeze: str | None  # "on" or "off"
    zone: str | None  # of Stochastic RSI: "low", "middle" or "high"
    last_down: int = 0


def parse_state(body: Any, _: float = 0) -> State:
    """Raises market_cache.BAD_DATA if that is not a state."""
    state = State(**body)
    check_time(state.candle)
    check_time(state.last_down)
    return state


def analyse(candles: Sequence[Candle]) -> dict[str, Any]:
    """The indicators after the last of these closed candles. What cannot be computed is None, and
    `reasons` says why."""
    values, reasons = indicators.compute(
        candles,
        ribbon=indicators.ema_ribbon,
        squeeze=indicators.squeeze,
        stoch_rsi=indicators.stoch_rsi,
    )
    plain = {name: value and value._asdict() for name, value in values.items()}
    last = candles[-1]
    return {"timestamp": last.timestamp, "close": last.close, **plain, "reasons": reasons}


def state_after(before: State | None, result: dict[str, Any]) -> State:
    """The state after `result`, which `analyse` returned."""
    _, ribbon, squeeze, zone, last_down = before or State(0, None, None, None)
    if result["ribbon"] and result["ribbon"]["state"] != "mixed":
        ribbon = result["ribbon"]["state"]
    if result["squeeze"]:
        squeeze = "on" if result["squeeze"]["on"] else "off"
    if result["stoch_rsi"]:
        zone = result["stoch_rsi"]["zone"]
    return State(result["timestamp"], ribbon, squeeze, zone, last_down)


def changes(before: State, after: State, momentum: float | None) -> list[str]:
    """The names of the signals between two states; `momentum` is the squeeze's."""
    names: list[str] = []
    if before.ribbon and before.ribbon != after.ribbon:
        names.append(f"ribbon_{after.ribbon}")
    if (before.squeeze, after.squeeze) == ("on", "off") and momentum:
        names.append("squeeze_up" if momentum > 0 else "squeeze_down")
    if before.zone in ("low", "high") and before.zone != after.zone:
        names.append("stoch_rsi_up" if before.zone == "low" else "stoch_rsi_down")
    return names


class TaService:
    """Takes a turn at each refresh of any timeframe."""

    def __init__(self, cache: MarketCache) -> None:
        self._cache = cache
        self._states: dict[tuple[str, str], State] = {}  # by symbol and timeframe
        self._compared: set[tuple[str, str]] = set()  # whose state was compared with Redis

    def run(self) -> None:
        for update in self._cache.updates():
            with self._cache.attempt():
                self.turn(update)

    def turn(self, update: Update | None) -> None:
        """Analyse the updated symbols; all if updates may have been missed (None)."""
        if update:
            self._turn(update.timeframe, update.symbols)
            return
        self._compared.clear()
        for timeframe, symbols in self._cache.series().items():
            self._turn(timeframe, symbols)

    def _turn(self, timeframe: str, symbols: Iterable[str]) -> None:
        """Write indicators and states, and publish signals and the update, in one transaction."""
        found, missing = self._cache.all_candles(symbols, timeframe)
        self._load_states(timeframe, found)
        batch = self._cache.logged.batch()
        states: dict[tuple[str, str], State] = {}
        for symbol, candles in found.items():
            if candles.closed:
                states[symbol, timeframe] = self._analyse(batch, symbol, timeframe, candles)
        payload = {
            "timeframe": timeframe,
            "symbols": [symbol for symbol, _ in states],
            "missing": missing,
            "timestamp": now_ms(),
            "db": self._cache.logged.db,
        }
        summary = f"{len(states)} analysed, {len(missing)} missing"
        batch.publish(update_channel(timeframe), json.dumps(payload), summary)
        self._cache.logged.send(batch)
        self._states |= states
        for entry in batch.entries:
            if entry["type"] == "signal":
                journal.event(logging.INFO, "signal", what=entry["summary"])

    def _analyse(self, batch: Batch, symbol: str, timeframe: str, candles: Candles) -> State:
        """Add the indicators to `batch`, and signals and state if a candle has closed."""
        result = analyse(candles.closed)
        left_s = candles.expires_at - time.time()
        if left_s > 0:
            payload = json.dumps(result, allow_nan=False)
            batch.cache_write(
                indicators_key(symbol, timeframe), payload, left_s, f"close {result['close']!r}"
            )
        before = self._states.get((symbol, timeframe))
        # A closed candle is judged once, though the exchange may revise it: a signal that comes,
        # goes and comes again for one candle would be worse than one that came a little early.
        if before and before.candle >= result["timestamp"]:
            return before
        after = state_after(before, result)
        momentum = result["squeeze"] and result["squeeze"]["momentum"]
        for name in changes(before, after, momentum) if before else []:
            assert before
            signal = Signal(
                symbol, timeframe, name, result["close"], after.candle, before.candle, now_ms()
            )
            text = str(Summary(symbol, timeframe, name, signal.price))
            payload = json.dumps(signal._asdict() | {"db": self._cache.logged.db})
            batch.signal(SIGNALS_CHANNEL, payload, text)
            if name.endswith("_down"):
                after = after._replace(last_down=signal.timestamp)
        state = json.dumps(after._asdict())
        batch.cache_write(state_key(symbol, timeframe), state, STATE_TTL_S)
        return after

    def _load_states(self, timeframe: str, symbols: Iterable[str]) -> None:
        """After a start or a failure of Redis, keep the later of the states in memory and in Redis.

        Redis may be ahead: a transaction whose answer was lost may have been executed. It may be
        behind: it was emptied, or restored from a copy.
        """
        series = {symbol: (symbol, timeframe) for symbol in symbols}
        unsure = {symbol: key for symbol, key in series.items() if key not in self._compared}
        keys = {symbol: state_key(symbol, timeframe) for symbol in unsure}
        found, _ = self._cache.read(keys, parse_state)
        for symbol, state in found.items():
            mine = self._states.get(unsure[symbol])
            if mine is None or state.candle > mine.candle:
                self._states[unsure[symbol]] = state
        self._compared.update(unsure.values())


def main(env: Environment, _: argparse.Namespace) -> int:
    connection = program.Connection.read(env)
    env.check()
    journal.event(logging.INFO, "start")
    TaService(connection.cache("ta-service")).run()
    return 0


if __name__ == "__main__":
    program.run(
        main,
        argparse.ArgumentParser(
            "ta_service", description="Indicators and signals from closed candles, at each refresh."
        ),
    )
