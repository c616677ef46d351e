"""Redis operations that also land in the message log, and the reading of that log.

The log is one capped stream. Its entries are sent in the same transaction as what they tell of,
so an entry never claims what did not happen. Knows nothing of candles, of HTTP or of threads; one
LoggedRedis may be used by many threads. As a command (`python redis_log.py --help`) it prints the
log. Any program that shares this Redis can use this file as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import unquote

import redis
from redis.backoff import NoBackoff
from redis.connection import PythonRespSerializer
from redis.retry import Retry
from redis.sentinel import Sentinel

DEFAULT_URL = "redis://127.0.0.1:6379/0"
DEFAULT_KEY, DEFAULT_MAXLEN = "redis:message_log", 10_000
TYPES = ("publish", "cache_write", "cache_read", "signal", "trade", "error")
SOURCES = ("market-data", "ta-service", "dashboard", "trader-bot")
SOCKET_TIMEOUT_S = 2.0  # for one answer; a whole refresh is about 5 MB
SENTINEL_URL = (
    r"redis\+sentinel://((?P<user>[^:@/]*)(:(?P<password>[^@/]*))?@)?"
    r"(?P<nodes>[\w.-]+:[0-9]+(,[\w.-]+:[0-9]+)*)/(?P<name>[\w.-]+)(/(?P<db>[0-9]+))?"
)
PAGE = 2000  # entries read at once while looking for those that match

Entry = dict[str, str]  # type, channel, source, summary, payload_size, timestamp; read: and id
Command = tuple[Any, ...]


class Read(NamedTuple):
    """What a key held: None if it is missing. It expires `left_s` seconds later, inf: never."""

    value: str | None
    left_s: float


class Fenced(redis.RedisError):
    """Nothing was sent, because the fence has another value."""


def connect(url: str) -> redis.Redis:
    """A client for `url` that decodes to str and tries everything once.

    With redis+sentinel://user:password@host:port,host:port/name/db it asks the sentinels for the
    master of that name, at each connection anew; user and password are for the master.
    Trying again is left to the caller: a transaction whose answer was lost may have happened.
    Raises ValueError, which quotes nothing of it, if `url` is not a Redis URL.
    """
    once: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    text: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "backslashreplace",
        # That of hiredis copies what it sends: with 350 symbols 60 MB at once.
        "command_packer": PythonRespSerializer(6000, _encode),
    }
    try:
        if found := re.fullmatch(SENTINEL_URL, url):
            nodes = [node.rpartition(":") for node in found["nodes"].split(",")]
            sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
                [(host, int(port)) for host, _, port in nodes], sentinel_kwargs=once
            )
            client: redis.Redis = sentinel.master_for(
                found["name"],
                username=unquote(found["user"] or "") or None,
                password=unquote(found["password"] or "") or None,
                db=int(found["db"] or 0),
                **once,
                **text,
            )
        else:
            client = redis.Redis.from_url(url, **once, **text)
        client.connection_pool.make_connection()  # connects not yet, but refuses unknown options
    except (ValueError, TypeError):
        raise ValueError(f"must be like {DEFAULT_URL}; / ? # @ in a password as %XX") from None
    return client


def _encode(value: str | bytes | int) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def redact(url: str) -> str:
    """`url` without user, password and options, so that it can be shown."""
    return re.sub(r"//.*@", "//***@", url).partition("?")[0]


def iso_ms(seconds: float) -> str:
    """Epoch seconds as ISO 8601 UTC with milliseconds: 2026-01-31T12:00:00.000Z."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class _LoggedOperations:
    """The logged operations. What is done with a command and its log entry, `_do` decides."""

    source: str

    def _do(self, command: Command | None, entry: Entry) -> None:
        raise NotImplementedError

    def cache_write(
        self, key: str, value: str | bytes, ttl_s: float = math.inf, summary: str = ""
    ) -> None:
        """SET `key`, to expire `ttl_s` seconds from now, however late Redis gets to it."""
        expiry = () if ttl_s == math.inf else ("PXAT", int((time.time() + ttl_s) * 1000))
        self._do(("SET", key, value, *expiry), self._entry("cache_write", key, summary, value))

    def publish(self, channel: str, payload: str, summary: str = "") -> None:
        self._do(("PUBLISH", channel, payload), self._entry("publish", channel, summary, payload))

    def signal(self, channel: str, payload: str, summary: str = "") -> None:
        """Publish a trading signal."""
        self._do(("PUBLISH", channel, payload), self._entry("signal", channel, summary, payload))

    def trade(self, channel: str, payload: str, summary: str = "") -> None:
        """Publish what a trader did."""
        self._do(("PUBLISH", channel, payload), self._entry("trade", channel, summary, payload))

    def error(self, channel: str, summary: str) -> None:
        """Only log: what went wrong with `channel`, which is a key or a channel."""
        self._do(None, self._entry("error", channel, summary, ""))

    def _entry(self, type_: str, channel: str, summary: str, payload: str | bytes | int) -> Entry:
        """`payload` is what is sent, or its size in bytes."""
        if isinstance(payload, str):
            payload = payload.encode()
        size = payload if isinstance(payload, int) else len(payload)
        return {
            "type": type_,
            "channel": channel,
            "source": self.source,
            "summary": summary,
            "payload_size": str(size),
            "timestamp": iso_ms(time.time()),
        }


class Batch(_LoggedOperations):
    """Operations to be sent together by LoggedRedis.send."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.commands: list[Command] = []
        self.entries: list[Entry] = []

    def _do(self, command: Command | None, entry: Entry) -> None:
        if command:
            self.commands.append(command)
        self.entries.append(entry)


class LoggedRedis(_LoggedOperations):
    """The operations of a program called `source`, each done and logged at once.

    Every method raises redis.RedisError if the operation failed. A log that cannot be written
    never fails the operation: `log_error` says why, and is "" again once the log works.
    """

    def __init__(
        self,
        client: redis.Redis,
        source: str,
        *,
        log_key: str = DEFAULT_KEY,
        log_maxlen: int = DEFAULT_MAXLEN,
    ) -> None:
        if source not in SOURCES:
            raise ValueError(f"source {source!r} is none of: {', '.join(SOURCES)}")
        self.source = source
        self.log_error = ""
        self._client, self._log_key, self._log_maxlen = client, log_key, log_maxlen

    def batch(self) -> Batch:
        return Batch(self.source)

    def send(self, batch: Batch, fence: tuple[str, str] | None = None) -> None:
        """One MULTI/EXEC: the writes of `batch`, its log entries, its publishes.

        Where Redis will not have the entries (another type of key, no permission), it gets the
        rest without them. With a `fence`, a key and its value, nothing is sent unless the key has
        that value when the transaction is carried out: else Fenced is raised.
        """
        log: list[Command] = [
            ("XADD", self._log_key, "MAXLEN", "~", self._log_maxlen, "*", *chain(*entry.items()))
            for entry in batch.entries
        ]
        try:
            answers, self.log_error = self._transact(batch.commands, log, fence)
        except redis.ResponseError as error:
            # Refused before EXEC, so nothing of it was done. If it was not for the entries, the
            # same error comes again.
            answers, _ = self._transact(batch.commands, [], fence)
            self.log_error = str(error)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    def cache_read(self, *keys: str) -> list[Read]:
        """What each key holds, in one transaction; then one log entry for all of them."""
        pipeline: Any = self._client.pipeline(transaction=True)
        pipeline.mget(keys)
        for key in keys:
            pipeline.pttl(key)
        values, *ttls_ms = pipeline.execute()
        missing, size = values.count(None), sum(len((value or "").encode()) for value in values)
        summary = "missing" if missing else ""
        if len(keys) > 1:
            summary = f"{len(keys)} keys" + f", {missing} missing" * bool(missing)
        try:
            self._do(None, self._entry("cache_read", _pattern(keys), summary, size))
        except redis.RedisError as error:
            self.log_error = str(error)
        return [
            Read(value, math.inf if ttl_ms == -1 else max(0, ttl_ms) / 1000)
            for value, ttl_ms in zip(values, ttls_ms, strict=True)
        ]

    def _do(self, command: Command | None, entry: Entry) -> None:
        batch = self.batch()
        batch._do(command, entry)
        self.send(batch)

    def _transact(
        self, commands: list[Command], log: list[Command], fence: tuple[str, str] | None
    ) -> tuple[list[Any], str]:
        """The answers to `commands`, and the first error among those to `log`, or ""."""
        if not commands and not log:
            return [], ""
        publishes = [command for command in commands if command[0] == "PUBLISH"]
        writes = [command for command in commands if command[0] != "PUBLISH"]
        pipeline: Any
        with self._client.pipeline(transaction=True) as pipeline:
            # From here to EXEC any change of the fence ends the transaction, so a program that was
            # stopped in between (SIGSTOP, a laptop's lid) cannot send what it meant to.
            if fence and (value := _watch(pipeline, fence[0])) != fence[1]:
                pipeline.connection.disconnect()
                raise Fenced(f"{fence[0]} is {value!r}")
            for command in [*writes, *log, *publishes]:
                pipeline.execute_command(*command)
            try:
                answers = pipeline.execute(raise_on_error=False)
            except redis.WatchError:
                raise Fenced("the fence has changed since it was looked at") from None
        first, last = len(writes), len(writes) + len(log)
        refused = next((a for a in answers[first:last] if isinstance(a, Exception)), "")
        return answers[:first] + answers[last:], str(refused)


def _watch(pipeline: Any, key: str) -> Any:
    """WATCH `key` and return what it holds: one round trip, where redis-py alone makes two.

    It is not told, for it would end the watching with UNWATCH, and lose the connection if that
    fails. Who does not go on to EXEC closes the connection instead.
    """
    pipeline.connection = connection = pipeline.connection_pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands([("WATCH", key), ("GET", key)]))
        connection.read_response()
        return connection.read_response()
    except BaseException:  # the second answer must not be taken for a later one
        connection.disconnect()
        raise


def _pattern(keys: tuple[str, ...]) -> str:
    """A key as it is; several as one glob pattern, like market:ohlcv:*:5m."""
    parts = zip(*(key.split(":") for key in keys), strict=False)
    return ":".join(part[0] if len(set(part)) == 1 else "*" for part in parts)


# --- reading the log ---


def read_log(
    client: redis.Redis,
    limit: int = 100,
    type: str | None = None,
    source: str | None = None,
    *,
    key: str = DEFAULT_KEY,
) -> list[Entry]:
    """The newest `limit` entries of that type and source (None: any), newest first, with "id"."""
    # A client that leaves entries as the flat lists of bytes that they come as: to make dicts of
    # text of all 10,000 takes as long again as to read them.
    reader: Any = redis.Redis(connection_pool=client.connection_pool)
    reader.set_response_callback("XREVRANGE", lambda response, **_: response)
    wanted = [word.encode() for word in (type, source) if word is not None]
    count = PAGE if wanted else limit
    found: list[Entry] = []
    before: str | bytes = "+"
    while len(found) < limit:
        page: Any = reader.execute_command(
            "XREVRANGE", key, before, "-", "COUNT", count, NEVER_DECODE=True
        )
        entries = page
        for word in wanted:
            entries = [entry for entry in entries if word in entry[1]]
        for id_, flat in entries:
            texts = [text.decode(errors="backslashreplace") for text in flat]
            fields = dict(zip(texts[::2], texts[1::2], strict=True))
            if _matches(fields, type, source):
                found.append(fields | {"id": id_.decode()})
        if len(page) < count:
            break
        before = b"(" + page[-1][0]
    return found[:limit]


def follow_log(client: redis.Redis, after: str, *, key: str = DEFAULT_KEY) -> Iterator[list[Entry]]:
    """What is added behind the entry id `after`, as it comes, oldest first; never ends.

    An empty list says that a second has passed with nothing new.
    """
    while True:
        # Waits shorter than the socket's time-out, which would end the wait with an error.
        added: Any = client.xread({key: after}, block=int(SOCKET_TIMEOUT_S * 500))
        entries = [fields | {"id": id_} for _, page in added or [] for id_, fields in page]
        after = entries[-1]["id"] if entries else after
        yield entries


def _matches(fields: Entry, type: str | None, source: str | None) -> bool:
    return type in (None, fields.get("type")) and source in (None, fields.get("source"))


# --- the command ---


def _line(entry: Entry) -> str:
    """One line for people, with control characters escaped: an entry is text, never commands."""
    fields = ("timestamp", "type", "source", "channel", "payload_size", "summary")
    time_, type_, source, channel, size, summary = (entry.get(field, "") for field in fields)
    line = f"{time_}  {type_:<11}  {source:<11}  {channel:<30}  {size:>7} B  {summary}".rstrip()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Print the message log of Redis, oldest first.",
        epilog="Redis is found at REDIS_URL (redis://127.0.0.1:6379/0), the log in it at "
        "MESSAGE_LOG_KEY (redis:message_log).",
    )
    parser.add_argument("--type", choices=TYPES, help="only entries of this type")
    parser.add_argument("--source", choices=SOURCES, help="only entries of this program")
    parser.add_argument("--limit", type=int, default=20, help="how many at the most (20)")
    parser.add_argument("--follow", action="store_true", help="then go on as entries are added")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    if arguments.limit < 1:
        parser.error(f"--limit {arguments.limit}: must be 1 or more")
    return arguments


def main() -> int:
    arguments = _arguments()
    url = os.environ.get("REDIS_URL", DEFAULT_URL)
    key = os.environ.get("MESSAGE_LOG_KEY", DEFAULT_KEY)
    wanted = (arguments.type, arguments.source)
    last = "0"

    def show(entry: Entry) -> str:
        print(json.dumps(entry) if arguments.json else _line(entry), flush=arguments.follow)
        return entry["id"]

    try:
        client = connect(url)
        for entry in reversed(read_log(client, arguments.limit, *wanted, key=key)):
            last = show(entry)
        while arguments.follow:
            try:
                for entries in follow_log(client, last, key=key):
                    for entry in entries:
                        last = show(entry) if _matches(entry, *wanted) else entry["id"]
            except (redis.ConnectionError, redis.TimeoutError) as error:
                print(f"redis_log: {error}; trying again", file=sys.stderr)
                time.sleep(1)
    except (redis.RedisError, ValueError) as error:
        print(f"redis_log: cannot read {key} at {redact(url)}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader (head, say) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
