"""The dashboard's API over real sockets, on a real Redis, and the state behind it."""

from __future__ import annotations

import gzip
import http.client
import json
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest
import redis

from consumers import live, pages
from consumers.dashboard import Dashboard
from consumers.events import MAX_LISTENERS, MAX_WAITING, MAX_WAITING_BYTES, Events
from consumers.live import Activity, Board, Watch
from consumers.market_cache import ALIVE_KEY, MarketCache, now_ms, ohlcv_key
from consumers.program import Connection
from consumers.ta_service import SIGNALS_CHANNEL, Summary, TaService, indicators_key
from demo.exchange import Exchange
from redis_log import DEFAULT_KEY, SOURCES, TYPES, LoggedRedis
from tests.candles import put_candles, put_price, update, walk
from tests.support import RedisServer, free_port, until

NOWHERE = f"http://127.0.0.1:{free_port()}/health"


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis_server.client


Serve = Callable[..., Dashboard]


@contextmanager
def dashboard_on(redis_url: str, health_url: str = NOWHERE) -> Iterator[Dashboard]:
    server = Dashboard("127.0.0.1", 0, Connection(redis_url, DEFAULT_KEY, 10_000), health_url)
    server.start()
    try:
        until(lambda: ask(server, "/api/status")[1]["consumers"]["dashboard"], 10)
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True, scope="module")
def quick_watch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "WATCH_EVERY_S", 0.1)
        yield


@pytest.fixture
def serve(redis_server: RedisServer) -> Iterator[Serve]:
    """serve(): a dashboard that has read the contents of Redis."""
    with ExitStack() as stack:
        yield lambda *url: stack.enter_context(dashboard_on(redis_server.url, *url))


@pytest.fixture(scope="module")
def idle(quick_watch: None) -> Iterator[Dashboard]:
    """A dashboard on an empty Redis, for requests that change nothing."""
    redis_server = RedisServer()
    with dashboard_on(redis_server.url) as server:
        yield server
    redis_server.kill()


def request(
    server: Dashboard, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read()


def ask(server: Dashboard, path: str) -> tuple[int, Any]:
    answer, body = request(server, path)
    return answer.status, json.loads(body)


def row_of(server: Dashboard, symbol: str) -> dict[str, Any]:
    return next(
        (row for row in ask(server, "/api/scanner")[1]["symbols"] if row["symbol"] == symbol), {}
    )


class EventStream:
    """What a client of /api/events receives: (name, value) pairs."""

    def __init__(self, server: Dashboard) -> None:
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", server.server_address[1], timeout=30
        )
        self.connection.request("GET", "/api/events")
        self.answer = self.connection.getresponse()
        self.heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.ended = False
        assert self.answer.readline() == b"event: heartbeat\n"
        threading.Thread(target=self._gather, daemon=True).start()

    def _gather(self) -> None:
        name = ""
        for line in self.answer:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                self.heard.put((name, json.loads(value)))
        self.ended = True

    def next(self, name: str) -> Any:
        while True:
            heard, value = self.heard.get(timeout=10)
            if heard == name:
                return value


class TestScanner:
    def test_shows_what_is_fresh_and_nothing_else(self, serve: Serve, client: Any) -> None:
        put_candles(client, "AUSDT", "1h", walk(100))
        put_candles(client, "AUSDT", "5m", walk(100))
        put_candles(client, "BUSDT", "5m", walk(100))
        put_price(client, "AUSDT", 50.0, ttl_s=3)
        client.set(indicators_key("AUSDT", "1h"), '{"close":1}', ex=60)
        server = serve()
        until(lambda: row_of(server, "AUSDT").get("scan"), 5)
        status, body = ask(server, "/api/scanner")
        assert status == 200 and abs(body["timestamp"] - time.time() * 1000) < 10_000
        assert body["timeframes"] == ["5m", "1h"]
        [a, b] = body["symbols"]
        assert a["price"]["price"] == 50.0 and a["ta"] == {"5m": None, "1h": {"close": 1}}
        assert a["scan"]["score"] is not None and len(a["scan"]["closes"]) == 48
        assert (b["symbol"], b["price"], b["scan"]) == ("BUSDT", None, None)
        until(lambda: row_of(server, "AUSDT")["price"] is None, 5, what="the price has expired")

    def test_is_read_anew_when_something_was_published(self, serve: Serve, client: Any) -> None:
        put_candles(client, "AUSDT", "5m", walk(100))
        server = serve()
        put_price(client, "AUSDT", 51.0)
        client.publish("market:update:5m", update(["AUSDT"], ["CUSDT"], 77))
        until(lambda: (row_of(server, "AUSDT")["price"] or {}).get("price") == 51.0, 5)
        _, body = ask(server, "/api/scanner")
        assert body["updates"] == {"5m": {"timestamp": 77, "symbols": 1, "failed": 1}}
        assert [row["symbol"] for row in body["symbols"]] == ["AUSDT", "CUSDT"]
        client.set(indicators_key("AUSDT", "5m"), '{"close":2}', ex=60)
        client.publish("ta:update:5m", "{}")
        until(lambda: row_of(server, "AUSDT")["ta"]["5m"] == {"close": 2}, 5)

    def test_has_the_newest_signal_of_each_coin(self, serve: Serve, client: Any) -> None:
        log = LoggedRedis(client, "ta-service")
        put_candles(client, "AUSDT", "5m", walk(100))
        put_candles(client, "BUSDT", "5m", walk(100))
        for text in ("AUSDT 1h ribbon_up at 1.5", "AUSDT 5m squeeze_down at 2.5", "no signal"):
            log.signal(SIGNALS_CHANNEL, "{}", text)
        server = serve()
        signal = until(lambda: row_of(server, "AUSDT").get("signal"), 5)
        assert abs(signal.pop("timestamp") - now_ms()) < 10_000
        assert signal == {
            "symbol": "AUSDT", "timeframe": "5m", "signal": "squeeze_down", "price": 2.5
        }  # fmt: skip
        assert row_of(server, "BUSDT")["signal"] is None
        log.signal(SIGNALS_CHANNEL, "{}", "BUSDT 5m stoch_rsi_up at 3.0")
        client.publish("ta:update:5m", "{}")
        until(lambda: (row_of(server, "BUSDT")["signal"] or {}).get("price") == 3.0, 5)

    def test_signals_that_cannot_be_read_take_nothing_else_away(
        self, serve: Serve, client: Any
    ) -> None:
        client.set(f"{DEFAULT_KEY}:signal", "another type of key")
        put_candles(client, "AUSDT", "5m", walk(100))
        client.set(indicators_key("AUSDT", "5m"), '{"close":2}', ex=60)
        server = serve()
        until(lambda: row_of(server, "AUSDT").get("ta") == {"5m": {"close": 2}}, 5)
        put_price(client, "AUSDT", 7.0)
        client.publish("market:update:5m", update(["AUSDT"]))
        until(lambda: (row_of(server, "AUSDT")["price"] or {}).get("price") == 7.0, 5)

    def test_is_sent_again_only_when_it_has_changed(self, serve: Serve, client: Any) -> None:
        server = serve()
        put_price(client, "AUSDT", 1.0, ttl_s=60)
        client.publish("market:update:5m", update(["AUSDT"]))
        until(lambda: row_of(server, "AUSDT").get("price"), 5)
        answer, body = request(server, "/api/scanner")
        tag = answer.headers["ETag"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Timestamp"] == str(json.loads(body)["timestamp"])

        answer, body = request(server, "/api/scanner", **{"If-None-Match": tag})
        assert (answer.status, body, answer.headers["ETag"]) == (304, b"", tag)
        assert abs(int(answer.headers["X-Timestamp"]) - now_ms()) < 10_000
        client.publish("market:update:5m", update(["AUSDT"], timestamp=2))
        until(lambda: request(server, "/api/scanner", **{"If-None-Match": tag})[1], 5)

    def test_says_when_something_in_it_expires(self, serve: Serve, client: Any) -> None:
        server = serve()
        assert ask(server, "/api/scanner")[1]["expires_at"] is None
        put_price(client, "AUSDT", 1.0, ttl_s=60)
        put_price(client, "BUSDT", 1.0, ttl_s=3)
        client.publish("market:update:5m", update(["AUSDT", "BUSDT"]))
        until(lambda: row_of(server, "BUSDT").get("price"), 5)
        answer, body = request(server, "/api/scanner")
        expires_at = json.loads(body)["expires_at"]
        assert abs(expires_at - now_ms()) < 10_000
        until(lambda: now_ms() > expires_at, 5)
        later, body = request(server, "/api/scanner", **{"If-None-Match": answer.headers["ETag"]})
        assert (
            later.status == 200 and abs(json.loads(body)["expires_at"] - now_ms() - 60_000) < 20_000
        )
        assert [bool(row["price"]) for row in json.loads(body)["symbols"]] == [True, False]

    def test_requests_alone_read_nothing(self, serve: Serve, client: Any) -> None:
        put_price(client, "AUSDT", 1.0)
        put_candles(client, "AUSDT", "1h", walk(100))
        server = serve()
        until(lambda: row_of(server, "AUSDT").get("scan"), 5)
        length = client.xlen(DEFAULT_KEY)
        for _ in range(20):
            ask(server, "/api/scanner")
        assert client.xlen(DEFAULT_KEY) == length


class TestChart:
    def test_candles(self, serve: Serve, client: Any) -> None:
        put_candles(client, "AUSDT", "4h", walk(500), ttl_s=60)
        status, body = ask(serve(), "/api/chart?symbol=AUSDT&timeframe=4h")
        assert status == 200 and len(body["candles"]) == 500
        assert body["candles"] == json.loads(client.get(ohlcv_key("AUSDT", "4h")))
        assert abs(body["expires_at"] - now_ms() - 60_000) < 10_000

    def test_lines_end_with_what_scanner_and_ta_service_wrote(
        self, serve: Serve, client: Any
    ) -> None:
        put_candles(client, "AUSDT", "1h", walk(500))
        TaService(MarketCache(client, "ta-service")).turn(None)
        server = serve()
        until(lambda: row_of(server, "AUSDT").get("scan"), 5)
        row = row_of(server, "AUSDT")
        _, body = ask(server, "/api/chart?symbol=AUSDT&timeframe=1h")
        lines, ta = body["lines"], row["ta"]["1h"]
        assert {len(line) for each in lines.values() for line in each.values()} == {500}
        assert body["reasons"] == {}
        assert lines["vwap"]["vwap"][-1] == row["scan"]["vwap"]
        assert all(
            lines["bands"][name][-1] == row["scan"]["bands"][name] for name in lines["bands"]
        )
        assert {period: line[-2] for period, line in lines["ribbon"].items()} == ta["ribbon"][
            "emas"
        ]
        assert bool(lines["squeeze"]["on"][-2]) == ta["squeeze"]["on"]
        assert lines["squeeze"]["momentum"][-2] == ta["squeeze"]["momentum"]
        assert lines["stoch_rsi"]["k"][-2] == ta["stoch_rsi"]["k"]
        assert lines["stoch_rsi"]["d"][-2] == ta["stoch_rsi"]["d"]

    def test_of_few_candles_says_why_there_is_no_line(self, serve: Serve, client: Any) -> None:
        put_candles(client, "AUSDT", "1h", walk(12))
        _, body = ask(serve(), "/api/chart?symbol=AUSDT&timeframe=1h")
        assert body["reasons"]["ribbon"] == "needs 55 candles, has 12"
        assert body["lines"]["ribbon"]["55"] == [None] * 12
        assert "vwap" not in body["reasons"] and None not in body["lines"]["vwap"]["vwap"]

    def test_has_the_signals_of_its_series(self, serve: Serve, client: Any) -> None:
        put_candles(client, "AUSDT", "5m", walk(100))
        log = LoggedRedis(client, "ta-service")
        for text in (Summary("AUSDT", "5m", "ribbon_up", 1e-8), "not a signal's", "A 5m at 1"):
            log.signal("ta:signals", "{}", str(text))
        log.signal("ta:signals", "{}", str(Summary("AUSDT", "1h", "ribbon_up", 2.0)))
        _, body = ask(serve(), "/api/chart?symbol=AUSDT&timeframe=5m")
        [signal] = body["signals"]
        assert (signal["signal"], signal["price"]) == ("ribbon_up", 1e-8)
        assert abs(signal["timestamp"] - now_ms()) < 60_000
        assert signal["candle"] in [candle["timestamp"] for candle in body["candles"][-3:]]

    def test_are_gzipped_for_who_accepts_it(self, serve: Serve, client: Any) -> None:
        put_candles(client, "AUSDT", "4h", walk(500), ttl_s=60)
        path, server = "/api/chart?symbol=AUSDT&timeframe=4h", serve()
        answer, body = request(server, path, **{"Accept-Encoding": "gzip, deflate"})
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert json.loads(gzip.decompress(body))["candles"] == ask(server, path)[1]["candles"]

    def test_none_fresh_is_404_with_the_reason(self, idle: Dashboard) -> None:
        status, body = ask(idle, "/api/chart?symbol=AUSDT&timeframe=4h")
        assert status == 404 and body == {"error": "nothing fresh in market:ohlcv:AUSDT:4h"}

    @pytest.mark.parametrize(
        ("query", "named"),
        [
            ("", "symbol"),
            ("symbol=AUSDT", "timeframe"),
            ("timeframe=1h", "symbol"),
            ("symbol=ausdt&timeframe=1h", "BTCUSDT"),
            ("symbol=*&timeframe=1h", "BTCUSDT"),
            ("symbol=AUSDT&timeframe=x", "5m"),
            ("symbol=AUSDT&timeframe=", "5m"),
            ("symbol=AUSDT&timeframe=1h&limit=5", "accepted: only symbol timeframe"),
        ],
    )
    def test_bad_parameters_are_400(self, idle: Dashboard, query: str, named: str) -> None:
        status, body = ask(idle, f"/api/chart?{query}")
        assert status == 400 and named in body["error"]


def fill_log(client: redis.Redis, count: int) -> None:
    """Add `count` entries; every 100th is a signal of the TA service."""
    market, ta = LoggedRedis(client, "market-data"), LoggedRedis(client, "ta-service")
    for start in range(0, count, 100):
        ta.signal("ta:signals", "{}", f"signal {start}")
        batch = market.batch()
        for number in range(99):
            batch.cache_write(f"c:{number}", "", 60, "500 candles to 2026-11-24T03:07:00.624Z")
        market.send(batch)


class TestMessageLog:
    def test_newest_first_filtered_and_with_the_length(self, serve: Serve, client: Any) -> None:
        fill_log(client, 1000)
        server = serve()
        status, body = ask(server, "/api/redis/log")
        assert status == 200 and len(body["entries"]) == 100 and body["length"] >= 1000
        status, body = ask(server, "/api/redis/log?limit=3&type=signal&source=ta-service")
        assert [e["summary"] for e in body["entries"]] == ["signal 900", "signal 800", "signal 700"]
        assert body["length"] == 10  # of the stream that was read
        status, body = ask(server, "/api/redis/log?type=trade")
        assert (status, body["entries"]) == (200, [])

    @pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "1.5", "99999", "٣"])
    def test_a_bad_limit_is_400(self, idle: Dashboard, limit: str) -> None:
        status, body = ask(idle, f"/api/redis/log?limit={quote(limit)}")
        assert status == 400 and "from 1 to 1000" in body["error"]

    @pytest.mark.parametrize(
        ("name", "accepted", "value"),
        [("type", TYPES, value) for value in ("nope", "", "Signal", "trade&type=nope", "trade,")]
        + [("source", SOURCES, value) for value in ("", "Signal", "my_bot", "a" * 41, "%00")],
    )
    def test_an_unknown_type_or_bad_source_is_400_and_says_what_is_accepted(
        self, idle: Dashboard, name: str, accepted: tuple[str, ...], value: str
    ) -> None:
        status, body = ask(idle, f"/api/redis/log?{name}={value}")
        assert status == 400 and all(each in body["error"] for each in accepted)
        assert name == "type" or "1 to 40 characters of a-z 0-9 and -" in body["error"]

    def test_the_source_of_any_program(self, serve: Serve, client: Any) -> None:
        LoggedRedis(client, "market-data").error("a", "first")
        LoggedRedis(client, "my-bot").error("a", "second")
        server = serve()
        _, body = ask(server, "/api/redis/log?source=my-bot")
        assert [entry["summary"] for entry in body["entries"]] == ["second"]
        assert ask(server, "/api/redis/log?source=another-bot")[1]["entries"] == []

    def test_the_filters_of_the_page_offer_all_types_and_the_sources_of_this_project(
        self, idle: Dashboard
    ) -> None:
        page = request(idle, "/status")[1].decode()
        [filter_] = re.findall('<select id="log-source">(.*?)</select>', page, re.DOTALL)
        assert tuple(re.findall("<option>(.*)</option>", filter_)) == SOURCES
        assert set(re.findall('<button .*data-type="(.*?)"', page)) == {"", *TYPES}

    @pytest.mark.parametrize(
        "query", ["typ=signal", "limit=1&limit=2", "type=%ff", "&".join("abcdefghijklmnopqrstu")]
    )
    def test_a_bad_query_is_400(self, idle: Dashboard, query: str) -> None:
        assert ask(idle, f"/api/redis/log?{query}")[0] == 400

    @pytest.mark.parametrize(
        ("query", "accepted"),
        [
            ("before=1795489650638", "like 1795489650638-0"),
            ("since=noon", "a time like 2026-11-24"),
            ("until=", "a time like 2026-11-24"),
        ],
    )
    def test_a_bad_time_or_id_is_400_and_says_what_is_accepted(
        self, idle: Dashboard, query: str, accepted: str
    ) -> None:
        status, body = ask(idle, f"/api/redis/log?{query}")
        assert status == 400 and query.partition("=")[0] in body["error"]
        assert accepted in body["error"]

    @pytest.mark.parametrize(
        ("query", "entries", "pages"),
        [
            ("type=publish&source=trader-bot", 0, 6),
            ("source=trader-bot", 0, 6),
            ("type=signal", 105, 1),
            ("type=trade&type=error", 0, 2),
            ("", 1000, 1),
        ],
    )
    def test_a_full_log_is_read_once_and_in_few_pages(
        self, serve: Serve, client: Any, query: str, entries: int, pages: int
    ) -> None:
        fill_log(client, 10_500)
        server = serve()
        until(lambda: client.xlen(DEFAULT_KEY) >= 10_000, 5)
        with client.monitor() as monitor:
            status, body = ask(server, f"/api/redis/log?limit=1000&{query}")
            client.echo("done")
            heard = iter(lambda: monitor.next_command()["command"], "ECHO done")
            read = [command for command in heard if re.match(r"XREVRANGE .*COUNT \d{4}", command)]
        assert status == 200 and len(body["entries"]) == entries
        assert 1 <= len(read) <= pages

    def test_several_types_and_pages_back(self, serve: Serve, client: Any) -> None:
        fill_log(client, 300)
        LoggedRedis(client, "trader-bot").trade("paper:trades", "{}", "buy")
        server = serve()

        def found(query: str) -> list[str]:
            _, body = ask(server, f"/api/redis/log?{query}")
            return [entry["summary"] for entry in body["entries"]]

        rare = "type=signal&type=trade"
        assert found(rare) == ["buy", "signal 200", "signal 100", "signal 0"]
        _, body = ask(server, f"/api/redis/log?{rare}&limit=2")
        assert body["length"] == 4
        assert found(f"{rare}&before={body['entries'][-1]['id']}") == ["signal 100", "signal 0"]
        assert found("type=signal&type=cache_write&limit=1&q=SIGNAL") == ["signal 200"]
        assert found(f"{rare}&until=2020-01-01") == found(f"{rare}&since=2999-01-01") == []

    def test_says_how_far_back_it_reaches(self, serve: Serve, client: Any) -> None:
        client.xadd(DEFAULT_KEY, {"type": "trade"}, id="1000-0")
        client.xadd(f"{DEFAULT_KEY}:error", {"type": "error"}, id="2000-0")
        server = serve()
        reaches = {
            query: ask(server, f"/api/redis/log?{query}")[1]["reaches_back_to"]
            for query in ("", "type=error", "type=trade", "type=error&type=publish")
        }
        of_log, of_errors = "1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z"
        assert list(reaches.values()) == [of_log, of_errors, None, of_log]
        log = until(lambda: ask(server, "/api/status")[1]["redis"]["log"], 5)
        assert {name: extent["oldest"] for name, extent in log.items()} == {
            "all": of_log,
            "signal": None,
            "trade": None,
            "error": of_errors,
        }

    def test_a_log_of_another_type_is_503_with_the_reason(self, serve: Serve, client: Any) -> None:
        client.set(DEFAULT_KEY, "no stream")
        server = serve()
        status, body = ask(server, "/api/redis/log")
        assert status == 503 and "WRONGTYPE" in body["error"]
        status, body = ask(server, "/api/status")
        assert body["redis"]["up"] and "WRONGTYPE" in body["redis"]["error"]


class TestTrouble:
    def test_both_pages_are_told_why(self, serve: Serve) -> None:
        server = serve()
        for path in ("/api/scanner", "/api/status"):
            found = until(lambda path=path: ask(server, path)[1]["trouble"], 5)
            assert found["text"] == "The service does not answer"
            assert f"{NOWHERE} does not answer: " in found["detail"]


class TestStatus:
    def test_who_is_alive(self, serve: Serve, client: Any) -> None:
        now = now_ms()
        lives = {
            "ta-service": now,
            "trader-bot": now - 31_000,
            "other": now,
            "evil": "<b>",
            "future": now + 3_600_000,
            "large": 1e999,
        }
        for name, seen in lives.items():
            client.hset(ALIVE_KEY, name, json.dumps({"timestamp": seen, "pid": 7, "started": 1}))
        client.hset(ALIVE_KEY, "worse", "[" * 5000)
        _, body = ask(serve(), "/api/status")
        found = body["consumers"]
        assert list(found)[:4] == ["scanner", "ta-service", "trader-bot", "dashboard"]
        assert found["ta-service"] == {"timestamp": now, "pid": 7, "alive": True}
        assert not found["trader-bot"]["alive"]
        assert found["other"]["alive"] and not found["future"]["alive"]
        assert found["evil"] is found["worse"] is found["large"] is None

    def test_the_service_and_its_health(self, serve: Serve) -> None:
        answers = [
            (200, b'{"status":"ok"}'),
            (503, b'{"status":"down"}'),
            (200, b"[1]"),
            (200, b"<html>"),
        ]

        class Health(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Health) as health:
            threading.Thread(target=health.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{health.server_address[1]}/health"
            server = serve(url)

            def state() -> Any:
                return ask(server, "/api/status")[1]["service"]

            until(lambda: state()["up"], 5)
            assert state() == {"up": True, "error": "", "health": {"status": "ok"}}
            for expected in ({"status": "down"}, None, None):
                answers.pop(0)
                until(lambda expected=expected: state()["health"] == expected, 5)  # type: ignore[misc]
            assert "is not the service" in state()["error"]
            health.shutdown()
        until(lambda: "does not answer" in state()["error"], 5)

    @pytest.fixture
    def follow(self) -> Iterator[Callable[..., Activity]]:
        stopping = threading.Event()
        threads = []

        def start(client: redis.Redis, maxlen: int) -> Activity:
            activity = Activity(client, DEFAULT_KEY, maxlen, Events(), stopping)
            threads.append(threading.Thread(target=activity.run))
            threads[-1].start()
            return activity

        yield start
        stopping.set()
        for thread in threads:
            thread.join()

    def test_messages_a_minute(self, client: Any, follow: Callable[..., Activity]) -> None:
        minute = now_ms() // 60_000
        for back, count in ((2, 3), (0, 2)):
            for number in range(count):
                client.xadd(DEFAULT_KEY, {"type": "x"}, id=f"{(minute - back) * 60_000 + number}-1")
        activity = follow(client, 10_000)
        until(lambda: activity.per_minute()[-3:][0][1] == 3, 5)
        counts = [count for _, count in activity.per_minute()]
        assert counts[:3] == [3, 0, 2]
        client.xadd(DEFAULT_KEY, {"type": "x"})
        until(lambda: sum(count for _, count in activity.per_minute()) == 6, 5)

    def test_a_minute_that_was_cut_off_is_not_counted(
        self, client: Any, follow: Callable[..., Activity]
    ) -> None:
        minute = now_ms() // 60_000
        for back in (1, 0):
            for number in range(60):
                client.xadd(DEFAULT_KEY, {"type": "x"}, id=f"{(minute - back) * 60_000 + number}-1")
        activity = follow(client, 100)
        until(lambda: activity.per_minute()[0][1], 5)
        assert activity.per_minute()[0] == (minute * 60_000, 60)


class TestBadData:
    """One bad value or message must not hide the good ones."""

    def test_no_message_poisons_it(self, serve: Serve, client: Any) -> None:
        put_candles(client, "AUSDT", "1h", walk(100))
        server = serve()
        for payload in (update([1, "AUSDT"]), update(["\ud800\ud800"]), "[" * 5000):  # type: ignore[list-item]
            client.publish("market:update:1h", payload)
        put_price(client, "AUSDT", 7.0)
        client.publish("market:update:1h", update(["AUSDT"]))
        until(lambda: (row_of(server, "AUSDT")["price"] or {}).get("price") == 7.0, 5)
        assert [row["symbol"] for row in ask(server, "/api/scanner")[1]["symbols"]] == ["AUSDT"]

    @pytest.mark.parametrize(
        "value", ['{"price":1e999}', '{"price":"x"}', "[1]", "[" * 5000, "NaN", "nonsense"]
    )
    def test_a_bad_value_is_one_that_is_missing(
        self, serve: Serve, client: Any, value: str
    ) -> None:
        put_candles(client, "AUSDT", "1h", walk(100))
        client.set("market:price:AUSDT", value, ex=60)
        server = serve()
        until(lambda: row_of(server, "AUSDT").get("scan"), 5)
        assert row_of(server, "AUSDT")["price"] is None

    def test_candles_that_never_expire_are_404(self, serve: Serve, client: Any) -> None:
        put_candles(client, "AUSDT", "1h", walk(100))
        client.persist("market:ohlcv:AUSDT:1h")
        status, body = ask(serve(), "/api/chart?symbol=AUSDT&timeframe=1h")
        assert status == 404 and "never expires" in body["error"]

    def test_a_defect_is_500_in_json(
        self, idle: Dashboard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(Board, "rows", lambda self: 1 / 0)
        status, body = ask(idle, "/api/scanner")
        assert status == 500 and "defect" in body["error"]
        assert "ZeroDivisionError" in caplog.text
        [record] = caplog.records
        assert record.getMessage().startswith('event=bug path=/api/scanner traceback="Traceback')
        assert "\n" not in record.getMessage()


class TestEvents:
    def test_entries_and_refreshes_as_they_happen(self, serve: Serve, client: Any) -> None:
        stream = EventStream(serve())
        LoggedRedis(client, "ta-service").signal("ta:signals", "{}", "a\nb <script>")
        found: list[dict[str, Any]] = []
        while not found:  # the dashboard logs, too
            found = [entry for entry in stream.next("log") if entry["type"] == "signal"]
        [entry] = found
        assert (entry["source"], entry["summary"]) == ("ta-service", "a\nb <script>")
        client.publish("market:update:5m", update(["AUSDT"]))
        while stream.next("update") != {"channel": "market:update:5m"}:
            pass

    def test_redis_gone_and_back(self, serve: Serve, redis_server: RedisServer) -> None:
        server = serve()
        stream = EventStream(server)
        redis_server.kill()
        assert not stream.next("redis")["up"]
        until(lambda: not ask(server, "/api/scanner")[1]["redis"]["up"], 5)
        assert ask(server, "/api/redis/log")[0] == 503
        assert ask(server, "/api/chart?symbol=AUSDT&timeframe=1h")[0] == 503
        redis_server.start()
        assert stream.next("redis") == {"up": True, "error": ""}
        LoggedRedis(redis_server.client, "ta-service").signal("ta:signals", "{}", "again")
        while "again" not in [entry["summary"] for entry in stream.next("log")]:
            pass

    def test_the_state_of_redis_is_told_once_answers_have_it(
        self, serve: Serve, redis_server: RedisServer
    ) -> None:
        server = serve()
        stream = EventStream(server)
        for change, up in ((redis_server.kill, False), (redis_server.start, True)):
            change()
            while stream.next("state")["redis"]["up"] != up:
                pass
            assert ask(server, "/api/scanner")[1]["redis"]["up"] == up

    def test_a_heartbeat_comes_whatever_else_does(
        self, idle: Dashboard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "HEARTBEAT_S", 0.3)
        stream, stopping = EventStream(idle), threading.Event()

        def keep_busy() -> None:
            while not stopping.wait(0.02):
                idle.events.publish("busy", None)

        threading.Thread(target=keep_busy, daemon=True).start()
        try:
            for _ in range(5):
                assert stream.next("heartbeat") == {}
                assert stream.next("busy") is None
        finally:
            stopping.set()

    def test_nothing_on_the_way_keeps_events_back(
        self, idle: Dashboard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connections: list[socket.socket] = []
        monkeypatch.setattr(idle, "request_came", connections.append)
        headers = EventStream(idle).answer.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert "Content-Encoding" not in headers
        # Who is gone without a word is let go of long before TCP itself gives up.
        [connection] = connections
        option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        until(lambda: connection.getsockopt(*option) == pages.UNACKNOWLEDGED_MS, 5)

    def test_too_many_are_refused_and_those_who_go_make_room(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("consumers.events.MAX_LISTENERS", 2)
        monkeypatch.setattr(pages, "HEARTBEAT_S", 0.1)
        server = serve()
        streams = [EventStream(server) for _ in range(2)]
        assert ask(server, "/api/events")[0] == 503
        streams[0].answer.close()
        streams[0].connection.close()

        def room() -> bool:
            with server.events.listener() as listener:
                return listener is not None

        until(room, 5)

    def test_a_slow_one_is_cut_off(self) -> None:
        events = Events()
        with events.listener() as slow, events.listener() as quick:
            assert slow and quick
            for number in range(MAX_WAITING + 1):
                events.publish("log", number)
                quick.get_nowait()
            assert slow.dropped and not quick.dropped

    def test_what_waits_for_all_is_bounded_in_bytes(self) -> None:
        events = Events()
        with events.listener() as slow, events.listener() as quick:
            assert slow and quick
            for _ in range(2):  # each larger than the bound; one may wait
                events.publish("log", "x" * MAX_WAITING_BYTES)
                quick.get_nowait()
            assert slow.dropped and not quick.dropped and quick.waiting_bytes == 0
        assert MAX_WAITING_BYTES * MAX_LISTENERS <= 16_000_000

    def test_a_stop_cuts_everybody_off(self, redis_server: RedisServer) -> None:
        with dashboard_on(redis_server.url) as server:
            stream = EventStream(server)
        until(lambda: stream.ended, 2)

    def test_head_ends_at_once(self, idle: Dashboard) -> None:
        answer, body = request(idle, "/api/events", "HEAD")
        assert (answer.status, body) == (200, b"")


class TestWatch:
    def test_no_proxy_is_asked_for_this_machine(
        self, redis_server: RedisServer, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, NOWHERE)
        for url in (f"{exchange.url}/api/v3/time", NOWHERE):
            watch = Watch(redis_server.client, DEFAULT_KEY, url, Events(), threading.Event())
            watch.turn()
            assert watch.state["service"]["up"] == (url != NOWHERE)


class TestServer:
    def test_pages_and_their_files(self, idle: Dashboard) -> None:
        for path, kind in (
            ("/", "text/html"),
            ("/trades", "text/html"),
            ("/status", "text/html"),
            ("/static/shared/base.css", "text/css"),
        ):
            answer, body = request(idle, path)
            assert answer.status == 200 and len(body) > 100
            assert answer.headers["Content-Type"].startswith(kind)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'self'; base-uri 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in answer.headers
        linked = set()
        for page in ("/", "/trades", "/status"):
            text = request(idle, page)[1].decode()
            linked |= {part.split('"')[0] for part in text.split('"/static/')[1:]}
        assert linked
        for name in linked:
            assert request(idle, f"/static/{name}")[0].status == 200

    @pytest.mark.parametrize("path", ["/", "/static/shared/base.css", "/static/shared/favicon.svg"])
    def test_files_are_sent_again_only_when_they_have_changed(
        self, idle: Dashboard, path: str
    ) -> None:
        answer, body = request(idle, path)
        tag = answer.headers["ETag"]
        assert answer.headers["Cache-Control"] == "no-cache" and tag.startswith('W/"')
        for method in ("GET", "HEAD"):
            for known in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
                again, nothing = request(idle, path, method, **{"If-None-Match": known})
                assert (again.status, nothing) == (304, b"")
                assert again.headers["ETag"] == tag and "Content-Length" not in again.headers
                assert again.headers["Cache-Control"] == "no-cache"
        for unknown in ('"x"', tag.strip('W/"'), ""):
            assert request(idle, path, **{"If-None-Match": unknown})[1] == body

    def test_one_connection_goes_on_after_a_304(self, idle: Dashboard) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", idle.server_address[1], timeout=10)
        for status in (304, 304, 200):
            headers = {"If-None-Match": "*"} if status == 304 else {}
            connection.request("GET", "/", headers=headers)
            answer = connection.getresponse()
            assert answer.status == status and bool(answer.read()) == (status == 200)

    @pytest.mark.parametrize("path", ["/", "/static/shared/base.css"])
    def test_gzip_for_who_accepts_it(self, idle: Dashboard, path: str) -> None:
        plain, body = request(idle, path, **{"Accept-Encoding": "br, gzip;q=0"})
        packed, smaller = request(idle, path, **{"Accept-Encoding": "br;q=1.0, GZIP;q=0.5"})
        head, nothing = request(idle, path, "HEAD", **{"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in plain.headers
        for answer in (packed, head):
            assert answer.headers["Content-Encoding"] == "gzip"
        assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
        assert len(smaller) < len(body) and nothing == b""
        assert gzip.decompress(smaller) == body
        assert int(head.headers["Content-Length"]) == len(smaller)

    def test_what_is_short_and_what_is_refused_is_sent_as_it_is(self, idle: Dashboard) -> None:
        for path, status in (("/static/shared/favicon.svg", 200), ("/nothing", 404)):
            answer, body = request(idle, path, **{"Accept-Encoding": "gzip"})
            assert answer.status == status and "Content-Encoding" not in answer.headers
            assert int(answer.headers["Content-Length"]) == len(body)
        answer, _ = request(idle, "/nothing", **{"If-None-Match": "*"})
        assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")

    @pytest.mark.parametrize(
        "path",
        [
            "/nothing",
            "/static/",
            "/static/../dashboard.py",
            "/static/%2e%2e/dashboard.py",
            "/static/dashboard.py",
            "/../../etc/passwd",
            "/api",
            "/static/shared/base.css/x",
        ],
    )
    def test_any_other_path_is_404_in_json(self, idle: Dashboard, path: str) -> None:
        status, body = ask(idle, path)
        assert status == 404 and "/api/scanner" in body["paths"]

    def test_other_methods_are_405(self, idle: Dashboard) -> None:
        answer, _ = request(idle, "/api/scanner", "POST")
        assert answer.status == 405

    @pytest.mark.parametrize("path", ["/api/scanner?x=1", "/api/status?x"])
    def test_parameters_where_none_are_taken_are_400(self, idle: Dashboard, path: str) -> None:
        status, body = ask(idle, path)
        assert status == 400 and "accepted: none" in body["error"]

    def test_a_bug_in_a_thread_does_not_end_it(
        self,
        serve: Serve,
        client: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        ask_redis = Watch._ask_redis
        monkeypatch.setattr(Watch, "_ask_redis", lambda self: 1 / 0)
        connection = Connection(f"redis://127.0.0.1:{free_port()}/0", DEFAULT_KEY, 10_000)
        server = Dashboard("127.0.0.1", 0, connection, NOWHERE)
        server.start()
        until(lambda: "event=bug thread=watch" in caplog.text, 5)
        monkeypatch.setattr(Watch, "_ask_redis", ask_redis)
        until(lambda: "refused" in ask(server, "/api/status")[1]["redis"]["error"], 5)
        server.stop()

    def test_a_port_in_use_is_an_os_error(self, redis_server: RedisServer) -> None:
        connection = Connection(redis_server.url, DEFAULT_KEY, 10_000)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match="in use"):
                Dashboard("127.0.0.1", port, connection, NOWHERE)
