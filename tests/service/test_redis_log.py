"""The message log on a real Redis, and its command."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

import redis_log
from redis_log import DEFAULT_KEY, LoggedRedis, follow_log, log_extent, read_log
from tests.support import ENVIRON, ROOT, RedisServer, until

ERRORS = f"{DEFAULT_KEY}:error"


def entries(client: redis.Redis, **wanted: Any) -> list[tuple[str, str, str, str]]:
    """(type, channel, summary, payload_size), newest first."""
    fields = ("type", "channel", "summary", "payload_size")
    return [tuple(e[f] for f in fields) for e in read_log(client, **wanted)]  # type: ignore[misc]


class TestCommand:
    @staticmethod
    def run(*arguments: str, url: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "redis_log.py"), *arguments],
            text=True,
            timeout=20,
            capture_output=True,
            env={**ENVIRON, "REDIS_URL": url, **environ},
        )

    def test_prints_a_line_an_entry_oldest_first(self, redis_server: RedisServer) -> None:
        market = LoggedRedis(redis_server.client, "market-data")
        market.publish("market:update:5m", "{}", "29 updated")
        market.error("evil", "line\nbreak \x1b[31m <b>")
        LoggedRedis(redis_server.client, "ta-service").signal("ta:signals", "{}", "flip")
        done = self.run(url=redis_server.url)
        lines = done.stdout.splitlines()
        assert done.returncode == 0 and len(lines) == 3
        assert re.search(r"Z  publish +market-data +market:update:5m +2 B  29 updated$", lines[0])
        assert r"line\nbreak \x1b[31m <b>" in lines[1]
        only = self.run("--type", "signal", "--source", "ta-service", url=redis_server.url)
        assert only.stdout.splitlines() == [lines[2]]
        last = self.run("--limit", "1", "--json", url=redis_server.url)
        assert json.loads(last.stdout)["summary"] == "flip"

    def test_filters(self, redis_server: RedisServer) -> None:
        client: Any = redis_server.client
        for ms, type_, text in (
            (1000, "trade", "buy"),
            (2000, "error", "HTTP"),
            (3000, "trade", ""),
        ):
            fields = {"type": type_, "summary": text, "timestamp": str(ms)}
            for stream in (DEFAULT_KEY, f"{DEFAULT_KEY}:{type_}"):
                client.xadd(stream, fields, id=f"{ms}-0")

        def found(*arguments: str) -> list[str]:
            lines = self.run("--json", *arguments, url=redis_server.url).stdout.splitlines()
            return [json.loads(line)["timestamp"] for line in lines]

        assert found("--type", "trade", "--type", "error") == ["1000", "2000", "3000"]
        assert found("--type", "error", "--type", "publish") == ["2000"]
        assert found("--q", "http") == ["2000"]
        assert found("--since", "1970-01-01T00:00:02Z") == ["2000", "3000"]
        assert found("--until", "1970-01-01T00:00:02Z", "--limit", "1") == ["2000"]
        assert found("--before", "3000-0", "--type", "trade") == ["1000"]

    def test_says_how_far_the_log_reaches_back(self, redis_server: RedisServer) -> None:
        client: Any = redis_server.client
        client.xadd(DEFAULT_KEY, {"type": "trade"}, id="1000-0")
        reaches = "redis_log: the log reaches back to "
        done = self.run(url=redis_server.url)
        assert done.stderr == f"{reaches}1970-01-01T00:00:01.000Z\n"
        assert self.run("--limit", "1", url=redis_server.url).stderr == ""
        done = self.run("--type", "trade", url=redis_server.url)
        assert (done.stdout, done.stderr) == ("", "redis_log: the log is empty\n")

    def test_follow_several_rare_types(self, redis_server: RedisServer, tmp_path: Path) -> None:
        client: Any = redis_server.client

        def add(type_: str, id_: str) -> None:
            client.xadd(f"{DEFAULT_KEY}:{type_}", {"type": type_, "summary": id_}, id=id_)

        for id_ in ("1000-0", "2000-0", "3000-0"):
            add("trade", id_)
        add("error", "1500-0")
        output = tmp_path / "out"
        command = "--follow --limit 2 --type trade --type error --type signal"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "redis_log.py"), *command.split()],
                stdout=file,
                env={**ENVIRON, "REDIS_URL": redis_server.url},
            )
        try:
            until(lambda: "3000-0" in output.read_text(), 10)
            add("error", "2500-0")  # of the same time as a trade that was shown, or before it
            add("signal", "3000-0")
            until(lambda: "signal" in output.read_text(), 10)
            add("trade", "4000-0")
            until(lambda: "4000-0" in output.read_text(), 10)
            shown = [line.split()[-1] for line in output.read_text().splitlines()]
            assert shown == ["2000-0", "3000-0", "2500-0", "3000-0", "4000-0"]
        finally:
            process.kill()
            process.wait()

    def test_follow_goes_on_through_a_pause_and_a_restart_of_redis(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        logged = LoggedRedis(redis_server.client, "market-data")
        logged.error("a", "first")
        output = tmp_path / "out"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "redis_log.py"), "--follow"],
                stdout=file,
                stderr=subprocess.DEVNULL,
                # A shell starts background jobs with SIGINT ignored, and these tests may be one.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                env={**ENVIRON, "REDIS_URL": redis_server.url},
            )
        try:
            until(lambda: "first" in output.read_text(), 10)
            logged.error("a", "second")
            until(lambda: "second" in output.read_text(), 10)
            redis_server.pause()
            time.sleep(redis_log.SOCKET_TIMEOUT_S + 1)
            redis_server.resume()
            redis_server.kill()
            time.sleep(0.1)  # so that the ids of the new stream are greater
            redis_server.start()
            logged.error("a", "third")
            until(lambda: "third" in output.read_text(), 10)
            assert len(output.read_text().splitlines()) == 3
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()
            process.wait()

    @pytest.mark.parametrize(
        "url", ["localhost", "redis://u:secret@127.0.0.1:1/0", "redis://:secret/x@host/0"]
    )
    def test_an_unreachable_redis_is_one_line(self, url: str) -> None:
        done = self.run(url=url)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1 and "secret" not in done.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--limit", "0"],
            ["--limit", "x"],
            ["--type", "no"],
            ["--source", "No"],
            ["--source", ""],
            ["--source", "my_bot"],
            ["--before", "1"],
            ["--since", "noon"],
            ["--until", "noon"],
            ["--until", "2026-11-24", "--follow"],
        ],
    )
    def test_bad_arguments(self, arguments: list[str]) -> None:
        done = self.run(*arguments, url="redis://127.0.0.1:1/0")
        assert done.returncode == 2 and arguments[0] in done.stderr
        assert arguments[0] != "--source" or "must be 1 to 40 characters of a-z" in done.stderr

    def test_the_source_of_any_program(self, redis_server: RedisServer) -> None:
        LoggedRedis(redis_server.client, "market-data").error("a", "first")
        LoggedRedis(redis_server.client, "my-bot").error("a", "second")
        done = self.run("--source", "my-bot", "--json", url=redis_server.url)
        [line] = done.stdout.splitlines()
        assert (json.loads(line)["source"], json.loads(line)["summary"]) == ("my-bot", "second")
        none = self.run("--source", "another-bot", url=redis_server.url)
        assert (none.returncode, none.stdout) == (0, "")

    def test_a_reader_that_has_enough(self, redis_server: RedisServer) -> None:
        logged = LoggedRedis(redis_server.client, "market-data")
        batch = logged.batch()
        for number in range(5000):
            batch.error("x", f"entry {number} " + "." * 100)
        logged.send(batch)
        command = f"{sys.executable} {ROOT / 'redis_log.py'} --limit 5000 | head -1"
        done = subprocess.run(
            command,
            shell=True,
            capture_output=True,
            text=True,
            timeout=20,
            env={**ENVIRON, "REDIS_URL": redis_server.url},
        )
        assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


class TestLoggedRedis:
    def test_a_batch_is_one_transaction_writes_then_log_then_publishes(
        self, redis_server: RedisServer
    ) -> None:
        logged = LoggedRedis(redis_server.client, "market-data")
        logged.cache_read("warm-up")
        batch = logged.batch()
        batch.publish("ch", "hello")
        batch.cache_write("k1", "v", 5)
        batch.error("k3", "gone")
        batch.cache_write("k2", "v", 5)
        with redis_server.client.monitor() as monitor:
            logged.send(batch)
            seen = []
            while "EXEC" not in seen:
                seen.append(monitor.next_command()["command"].split()[0])
        seen = seen[seen.index("MULTI") :]  # a new connection sends HELLO
        # The fifth entry is that of the error in the stream of errors.
        assert seen == ["MULTI", "SET", "SET", *5 * ["XADD"], "PUBLISH", "EXEC"]

    def test_the_log_is_capped(self, redis_server: RedisServer) -> None:
        logged = LoggedRedis(redis_server.client, "market-data", log_maxlen=100)
        for _ in range(10):
            batch = logged.batch()
            for _ in range(60):
                batch.error("x", "y")
            logged.send(batch)
        for stream in (DEFAULT_KEY, ERRORS):
            assert 100 <= redis_server.client.xlen(stream) <= 220  # "~" keeps whole nodes

    def test_a_log_of_another_type_breaks_nothing(self, redis_server: RedisServer) -> None:
        client = redis_server.client
        client.set(DEFAULT_KEY, "not a stream")
        logged = LoggedRedis(client, "market-data")
        logged.cache_write("k", "v", 5)
        assert client.get("k") == "v" and "WRONGTYPE" in logged.log_error
        logged.error("k", "only a log entry")
        assert logged.cache_read("k")[0].value == "v"
        client.delete(DEFAULT_KEY)
        logged.cache_write("k", "v", 5)
        assert logged.log_error == "" and len(read_log(client)) == 1

    def test_a_log_without_permission_breaks_nothing(self, redis_server: RedisServer) -> None:
        redis_server.client.execute_command(
            "ACL", "SETUSER", "u", "on", ">p", "~market:*", "&*", "+@all"
        )
        client = redis_log.connect(redis_server.url.replace("//", "//u:p@"))
        logged = LoggedRedis(client, "market-data")
        logged.cache_write("market:k", "v", 5)
        logged.publish("ch", "x")
        logged.error("market:k", "nobody hears it")
        assert client.get("market:k") == "v" and "permission" in logged.log_error
        assert redis_server.client.xlen(DEFAULT_KEY) == 0

    def test_a_stream_of_errors_of_another_type_breaks_nothing(
        self, redis_server: RedisServer
    ) -> None:
        client = redis_server.client
        client.set(ERRORS, "not a stream")
        logged = LoggedRedis(client, "market-data")
        batch = logged.batch()
        batch.cache_write("k", "v", 5)
        batch.error("k", "broken")
        batch.signal("ch", "x")
        logged.send(batch)
        assert client.get("k") == "v" and logged.log_error.startswith(f"{ERRORS}: WRONGTYPE")
        assert [e["type"] for e in read_log(client)] == ["signal", "error", "cache_write"]
        assert len(read_log(client, type="signal")) == 1
        client.delete(ERRORS)
        logged.error("k", "broken again")
        assert logged.log_error == ""
        assert [e["summary"] for e in read_log(client, type="error")] == ["broken again"]

    def test_a_user_who_may_only_write_the_main_log(self, redis_server: RedisServer) -> None:
        rules = ("on", ">p", "~market:*", f"~{DEFAULT_KEY}", "&*", "+@all")
        redis_server.client.execute_command("ACL", "SETUSER", "u", *rules)
        client = redis_log.connect(redis_server.url.replace("//", "//u:p@"))
        logged = LoggedRedis(client, "market-data")
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.subscribe("ch")
        heard.get_message(timeout=1)
        batch = logged.batch()
        batch.cache_write("market:k", "v", 5)
        batch.trade("ch", "bought")
        batch.error("market:k", "broken")
        logged.send(batch)
        assert client.get("market:k") == "v" and "permission" in logged.log_error
        message = until(lambda: heard.get_message(timeout=1), 5)
        assert message["data"] == "bought" and heard.get_message() is None
        assert [e["type"] for e in read_log(client)] == ["error", "trade", "cache_write"]
        assert redis_server.client.keys(f"{DEFAULT_KEY}:*") == []
        with pytest.raises(redis.exceptions.NoPermissionError):
            read_log(client, type="trade")
        logged.cache_write("market:k", "w", 5)
        assert logged.log_error == ""

    def test_a_full_redis_takes_a_trade_without_its_entries(
        self, redis_server: RedisServer
    ) -> None:
        redis_server.client.config_set("maxmemory", "1")
        logged = LoggedRedis(redis_server.client, "trader-bot")
        # Valkey refuses only what needs memory, Redis 7 each command of a transaction.
        with suppress(redis.exceptions.OutOfMemoryError):
            logged.trade("paper:trades", "{}", "buy")
            assert "memory" in logged.log_error
        logged.error("k", "broken")
        assert "memory" in logged.log_error
        redis_server.client.config_set("maxmemory", "0")
        assert redis_server.client.keys() == []

    def test_what_is_refused_is_raised_and_not_logged(self, redis_server: RedisServer) -> None:
        redis_server.client.config_set("maxmemory", "1")
        logged = LoggedRedis(redis_server.client, "market-data")
        with pytest.raises(redis.ResponseError, match="memory"):
            logged.cache_write("k", "v", 5)
        redis_server.client.config_set("maxmemory", "0")
        assert read_log(redis_server.client) == []

    def test_a_lost_redis_is_raised(self, redis_server: RedisServer) -> None:
        logged = LoggedRedis(redis_server.client, "market-data")
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            logged.publish("ch", "x")

    def test_a_write_that_redis_gets_late_does_not_live_longer(
        self, redis_server: RedisServer
    ) -> None:
        logged = LoggedRedis(redis_server.client, "market-data")
        logged.cache_read("warm-up")
        redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            logged.cache_write("k", "v", 30)
        redis_server.resume()
        left_ms = until(lambda: max(0, redis_server.client.pttl("k")), 5, what="the late write")
        assert left_ms < 30_000 - redis_log.SOCKET_TIMEOUT_S * 1000 + 100


class TestRareTypes:
    def test_are_found_when_the_log_has_lost_them(self, redis_server: RedisServer) -> None:
        client = redis_server.client
        logged = LoggedRedis(client, "trader-bot", log_maxlen=1000)
        logged.trade("paper:trades", "{}", "buy 1 BTC")
        batch = logged.batch()
        for _ in range(2000):
            batch.cache_write("k", "v", 5)
        logged.send(batch)
        assert "trade" not in {entry["type"] for entry in read_log(client, 5000)}
        assert [entry["summary"] for entry in read_log(client, type="trade")] == ["buy 1 BTC"]

    def test_a_log_of_before_has_none_and_says_so(self, redis_server: RedisServer) -> None:
        """Its programs wrote only the one stream; what comes from now on is in both."""
        client: Any = redis_server.client
        client.xadd(DEFAULT_KEY, {"type": "trade", "summary": "of before"})
        assert read_log(client, type="trade") == []
        assert log_extent(client, "trade").oldest is None and log_extent(client).oldest
        LoggedRedis(client, "trader-bot").trade("paper:trades", "{}", "after")
        assert [entry["summary"] for entry in read_log(client)] == ["after", "of before"]
        assert [entry["summary"] for entry in read_log(client, type="trade")] == ["after"]

    def test_the_extent_of_several_is_that_of_all_together(self, redis_server: RedisServer) -> None:
        client: Any = redis_server.client
        for type_, ms in (("trade", 1000), ("trade", 2000), ("error", 3000), ("signal", 9000)):
            client.xadd(f"{DEFAULT_KEY}:{type_}", {"type": type_}, id=f"{ms}-0")
        times = ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:03.000Z")
        assert log_extent(client, ["trade", "error"]) == (3, *times)


class TestReadLog:
    def test_entries_that_others_wrote_badly(self, redis_server: RedisServer) -> None:
        client: Any = redis_server.client
        client.xadd(DEFAULT_KEY, {"summary": b"\xff\xfe", "id": "evil"})
        [entry] = read_log(client)
        assert entry["summary"] == r"\xff\xfe" and re.fullmatch(r"\d+-0", entry["id"])

    def test_follow_yields_what_is_added(self, redis_server: RedisServer) -> None:
        logged = LoggedRedis(redis_server.client, "market-data")
        logged.publish("before", "x")
        after = read_log(redis_server.client, 1)[0]["id"]
        following = follow_log(redis_log.connect(redis_server.url), after)
        logged.publish("ch", "x")
        logged.signal("ch", "y")
        added = next(following) + next(following)
        assert [entry["type"] for entry in added] == ["publish", "signal"]
        assert next(following) == []
