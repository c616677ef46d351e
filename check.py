"""`python market_data.py --check`: will the service work on this box? Writes nothing.

FAIL: it cannot run here, or would have no fresh data. warn: it runs, but some symbols lack data, or
the exchange is not as documented.
"""

from __future__ import annotations

import math
import re
import socket
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import redis

import redis_log
from binance_answers import (
    MAX_TICKER_SYMBOLS,
    TIMEFRAME_MS,
    BinanceError,
    Candles,
    Idle,
    RateLimited,
    Stopped,
)
from binance_client import BinanceClient
from candles import FRESH_LENGTHS
from check_redis import look_at_redis
from connecting import resolve
from environment import Environment
from fetcher import GIVE_UP_SHARE
from journal import short
from judge import duration
from rate_limiter import RateLimiter
from redis_log import iso_ms, redact
from redis_writer import hold_left
from settings import LISTING_WEIGHT, Settings

CHECK_WITHIN_S, REQUESTS_WITHIN_S = 30.0, 29.0
# Candles of a clock that is further off would be taken for late or for future ones.
CLOCK_OFF_S = 1.0
# If serverTime is further from the Date header, which the network before the exchange stamps in
# whole seconds, then the exchange's clock is wrong and not this machine's.
DATE_OFF_S = 5.0
# A call weighs the least of several differences of the used weight, because other programs' calls,
# or the end of a minute, may come between two answers. Pauses let a running service refresh.
PROBES, PROBE_PAUSE_S = 4, 0.3

NETWORK = "check network, DNS, firewall, proxy"
CERTIFICATE = "let REQUESTS_CA_BUNDLE name a file with the CA of the exchange, or of the proxy"
REFUSED = {  # what to do, by HTTP status
    403: "run it elsewhere: the network blocks this address, often for its country or cloud host",
    418: "find the program that asks too much, restart nothing",
    429: "find the other program that asks too much",
    451: "run it elsewhere: the exchange does not serve this country or address",
}
SYMBOLS = {  # what is wrong and what to do, by state
    "unknown": "not listed: correct SYMBOLS",
    "halted": "listed but not traded: take out of SYMBOLS, or wait",
    "frozen": "traded, but without a newer candle: wait, old data is not shown",
    "idle": "no trade in 24 h, so no price: take out of SYMBOLS, or wait",
    "unread": "no usable answer: check again; if it stays, the exchange has changed",
}


class Findings:
    """Prints a line for each thing that was looked at, and counts them by level."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def say(self, what: str, text: str, todo: str = "", level: str = "FAIL") -> None:
        """Of the `level` if there is something to do, else ok."""
        level, text = (level, f"{text.rstrip('.')}: {todo}") if todo else ("ok", text)
        self.count[level] += 1
        print(f"{level:<6}{what:<10}{text}", flush=True)


def check(settings: Settings, env: Environment) -> int:
    """Say what is right and wrong with the settings, which are those of `env`, with Redis, the
    exchange and each symbol. Returns 0 or 1."""
    started, findings = time.monotonic(), Findings()
    needs = f"{len(settings.symbols)} symbols need {settings.weight_a_minute:.0f} weight a minute"
    findings.say("settings", f"{needs}; WEIGHT_LIMIT is {settings.weight_limit}")
    for name, nearest in env.misspelt().items():
        findings.say("settings", f"{name} is not one", f"did you mean {nearest}?", "warn")
    if hold := _check_redis(settings, findings):
        findings.say("exchange", f"not asked, because it is on hold {hold}", "check again then")
    else:
        exchange = ExchangeCheck(settings, findings, started + REQUESTS_WITHIN_S)
        job = ThreadPoolExecutor(1).submit(exchange.run)  # resolving a name has no time limit
        try:
            job.result(started + CHECK_WITHIN_S - time.monotonic())
        except TimeoutError:
            findings.say("exchange", f"not done within {CHECK_WITHIN_S:.0f} s", NETWORK)
    failed, warned = findings.count["FAIL"], findings.count["warn"]
    verdict = f"NOT work here: {failed} to mend" if failed else "work here"
    print(f"The service will {verdict}{f', {warned} to look at' if warned else ''}.")
    return int(failed > 0)


def _check_redis(settings: Settings, findings: Findings) -> str:
    """Returns until when and why the exchange is on hold, "" if it is not."""
    client = redis_log.connect(settings.redis_url)
    try:
        name, wrong = look_at_redis(client)
    except redis.RedisError as error:
        what = f"{redact(settings.redis_url)}: {short(error)}"
        findings.say("redis", what, "start it, or correct REDIS_URL")
        return ""
    for level, what, todo in wrong:
        findings.say("redis", what, todo, level)
    if not wrong:
        findings.say("redis", name)
    with suppress(redis.RedisError):
        if left := hold_left(client.get(settings.hold_key)):
            until = iso_ms(time.time() + left[0])
            return f"until {until} after HTTP {left[1]} ({settings.hold_key} in Redis)"
    return ""


class ExchangeCheck:
    """The way to the exchange, its clock, its limits, and each symbol."""

    def __init__(self, settings: Settings, findings: Findings, give_up_at: float) -> None:
        self._settings, self._say, self._give_up_at = settings, findings.say, give_up_at
        self._step_s = TIMEFRAME_MS[settings.price_timeframe.name] / 1000
        self._ahead_s = 0.0  # the exchange's clock, of this machine's
        # It never waits: --check says that there is a hold, and does not sit it out.
        self._limiter = RateLimiter(wait=lambda _: True)
        self._client = BinanceClient(
            settings.binance_base_url,
            self._limiter,
            timeout_s=settings.request_timeout,
            connections=settings.max_workers,
            wall_clock=lambda: time.time() + self._ahead_s,
        )

    def run(self) -> None:
        try:
            self._network()
            self._clock()
            others = (self._client.used_weight() or 0) - 2  # the two calls of _clock
            statuses = self._client.exchange_info(self._settings.symbols, self._give_up_at).statuses
            weight = self._probe(next(iter(statuses), self._settings.symbols[0]))
            self._needs(weight, max(0, others))
            self._symbols(statuses)
        except OSError as error:
            self._say("network", str(error), NETWORK)
        except BinanceError as error:
            self._refused(error)

    def _network(self) -> None:
        """Addresses, proxy and CA bundle. Raises OSError if the name does not resolve."""
        url = urlsplit(self._settings.binance_base_url)
        way = f"by the proxy {self._client.proxy}"
        if not self._client.proxy:
            found = resolve(url.hostname or "", url.port or 443)
            six = sum(family == socket.AF_INET6 for family, *_ in found)
            way = f"{url.hostname} has {len(found) - six} IPv4, {six} IPv6 addresses; no proxy"
        trusted = f"CA bundle {self._client.ca_bundle}" if url.scheme == "https" else "no TLS"
        self._say("network", f"{way}; {trusted}")

    def _clock(self) -> None:
        samples: list[tuple[float, float]] = []
        for _ in range(2):  # the first one also connects
            asked = time.time()
            server_s = self._client.server_time(self._give_up_at) / 1000
            took_s = time.time() - asked
            samples.append((took_s, server_s - asked - took_s / 2))
        took_s, ahead_s = min(samples)
        date_s = self._client.clock_offset_s()
        if date_s is not None and abs(ahead_s - date_s) > DATE_OFF_S:
            self._ahead_s = date_s
            text = f"serverTime is {ahead_s - date_s:+.0f} s off the Date of the same answer"
            self._say("clock", text, "the exchange's clock is wrong, wait", "warn")
            return
        self._ahead_s = ahead_s
        way = "ahead" if ahead_s > 0 else "behind"
        text = f"the exchange's is {abs(ahead_s):.2f} s {way}, give or take {took_s / 2:.2f} s"
        self._say("clock", text, "use NTP" if abs(ahead_s) > CLOCK_OFF_S else "")

    def _probe(self, symbol: str) -> int:
        """How long an answer takes. Returns the weight of a klines call, 0 if it is not known."""
        took_s: list[float] = []
        weights: list[int] = []
        for _ in range(PROBES):
            before, asked = self._client.used_weight() or 0, time.monotonic()
            read = self._newest(symbol)
            took_s.append(time.monotonic() - asked)
            weights.append((self._client.used_weight() or 0) - before)
            if isinstance(read, BinanceError):
                break
            time.sleep(PROBE_PAUSE_S)
        trip_s, timeframe = statistics.median(took_s), self._settings.price_timeframe
        requests = len(self._settings.symbols) * (1 + 1 / MAX_TICKER_SYMBOLS)
        refresh_s = trip_s * math.ceil(requests / self._settings.max_workers)
        slow = refresh_s > GIVE_UP_SHARE * timeframe.refresh_s
        text = f"{self._settings.binance_base_url} answers in {trip_s * 1000:.0f} ms"
        todo = f"{timeframe.name} takes {refresh_s:.1f} s, raise MAX_WORKERS or refresh less often"
        self._say("exchange", text, todo if slow else "", "warn")
        return min((weight for weight in weights if weight > 0), default=0)

    def _needs(self, weight: int, others: int) -> None:
        """What the service needs if a request weighs `weight`, and what it may use."""
        limits, count = self._limiter.state().limits, self._settings.weight_a_minute
        need = max(1, weight) * count * limits.weight.window_s / 60
        requests = count * limits.requests.window_s / 60
        text, todo = f"a klines call weighs {weight}, documented is 1", ""
        if weight > 1:
            todo = f"the need is {need:.0f}, not {count:.0f}; fine if limits is ok"
        elif not weight:
            text, todo = "the answers do not say what they weigh", "watch for HTTP 429"
        self._say("weight", text, todo, "warn")
        text = (
            f"{need:.0f} of {limits.weight.units} weight in {limits.weight.window_s} s, "
            f"{requests:.0f} of {limits.requests.units} requests in {limits.requests.window_s} s; "
            f"others on this address use {others}"
        )
        left, todo = limits.weight.units - LISTING_WEIGHT - need, ""
        if left < 0 or requests > limits.requests.units:
            todo = "take fewer SYMBOLS, or refresh less often"
        elif left < others:
            todo = "find these programs; a running service is one"
        self._say("limits", text, todo)

    def _symbols(self, statuses: Mapping[str, str]) -> None:
        """Each symbol, by the listing, its newest candle and its ticker."""
        listed, size = list(statuses), MAX_TICKER_SYMBOLS
        with ThreadPoolExecutor(self._settings.max_workers) as pool:
            newest = dict(zip(listed, pool.map(self._newest, listed), strict=True))
        tickers: dict[str, object] = {}
        for part in (listed[start : start + size] for start in range(0, len(listed), size)):
            read = self._read(self._client.tickers, part)
            tickers |= read if isinstance(read, dict) else dict.fromkeys(part, read)
        states = defaultdict[str, dict[str, list[str]]](lambda: defaultdict(list))
        for symbol in self._settings.symbols:
            status = statuses.get(symbol, "")
            state, detail = self._state(status, newest.get(symbol), tickers.get(symbol))
            states[state][detail].append(symbol)
        if self._stands_still(states):
            del states["frozen"]
        for state in filter(states.get, SYMBOLS):
            text = "; ".join(", ".join(names) + detail for detail, names in states[state].items())
            self._say(state, text, SYMBOLS[state], "FAIL" if state == "unknown" else "warn")

    def _stands_still(self, states: dict[str, dict[str, list[str]]]) -> bool:
        """Print the line on all symbols. True if it says that the exchange stands still."""
        count = Counter({state: sum(map(len, states[state].values())) for state in states})
        fresh, total = count["fresh"] + count["idle"], count.total()
        half = (total - count["unknown"] - count["halted"]) / 2
        if still := count["frozen"] > half:
            text = f"the exchange stands still, {count['frozen']} of {total} are frozen"
            self._say("symbols", text + next(iter(states["frozen"])), "wait, old data is not shown")
        else:
            text = f"{fresh} of {total} are fresh{','.join(states['fresh'])}"
            self._say("symbols", text, "" if fresh > half else "see below")
        return still

    def _state(self, status: str, newest: object, ticker: object) -> tuple[str, str]:
        """A key of SYMBOLS or "fresh", and a detail."""
        age, age_s = "", 0.0
        if isinstance(newest, Candles):
            age_s = time.time() + self._ahead_s - newest.times[-1] / 1000
            age = f" (newest candle: {duration(age_s)} old)"
        error = newest if isinstance(newest, BinanceError) else ticker
        if not status:
            return "unknown", ""
        if status != "TRADING":
            return "halted", f" {status}{age}"
        if age_s > FRESH_LENGTHS * self._step_s:
            return "frozen", age
        if isinstance(error, Idle):
            return "idle", ""
        return ("unread", f" ({error})") if isinstance(error, BinanceError) else ("fresh", age)

    def _newest(self, symbol: str) -> Any:
        name = self._settings.price_timeframe.name
        return self._read(self._client.klines, symbol, name, 2)

    def _read(self, ask: Callable[..., Any], *args: Any) -> Any:
        """The answer, or why there is none. Raises only if nothing more may be asked."""
        try:
            return ask(*args, self._give_up_at)
        except (RateLimited, Stopped):
            raise
        except BinanceError as error:
            return error

    def _refused(self, error: BinanceError) -> None:
        used, hold_s, status, limits = self._limiter.state()
        if words := self._client.last_refusal():
            todo, again = REFUSED.get(status, NETWORK), iso_ms(time.time() + hold_s)
            todo += f"; ask again after {again}" if status in (418, 429) else ""
            self._say("exchange", words, todo)
        elif isinstance(error, RateLimited | Stopped):
            text = f"{used} of {limits.weight.units} weight is used on this address"
            self._say("limits", text, "find the other programs")
        else:
            todo = CERTIFICATE if re.search("certificate|CA bundle", str(error)) else NETWORK
            todo = "wait" if error.status >= 500 else REFUSED.get(error.status, todo)
            self._say("exchange", f"{self._settings.binance_base_url}: {error}", todo)
