"""Redis operations that are also recorded in the message log, and a reader of that log.

The log is one capped stream. Entries of rare types are also in a stream of their own, for caching
fills the log within the hour. Each entry is sent in the same transaction as the operation it
describes, so an entry never claims what did not happen. Knows nothing of candles, HTTP or threads;
many threads may share one LoggedRedis. As a command (`python redis_log.py --help`) it prints the
log. Any program that shares this Redis can take this one file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, takewhile
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import redis
from redis.backoff import NoBackoff
from redis.connection import PythonRespSerializer
from redis.retry import Retry
from redis.sentinel import Sentinel

DEFAULT_URL = "redis://127.0.0.1:6379/0"
DEFAULT_KEY, DEFAULT_MAXLEN = "redis:message_log", 10_000  # entries: 40 minutes of 29 coins
RARE_TYPES = ("signal", "trade", "error")
TYPES = ("publish", "cache_write", "cache_read", *RARE_TYPES)
SOURCES = ("market-data", "ta-service", "dashboard", "trader-bot")  # the programs of this project
SOCKET_TIMEOUT_S = 2.0  # for one answer, also to a whole refresh of about 5 MB
_NODE = r"([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]+"
SENTINEL_URL = (
    r"redis\+sentinel://((?P<user>[^:@/]*)(:(?P<password>[^@/]*))?@)?"
    rf"(?P<nodes>{_NODE}(,{_NODE})*)/(?P<name>[\w.-]+)(/(?P<db>[0-9]+))?(\?(?P<options>.*))?"
)
SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}
PAGE = 2000  # entries read at once by a filter: a full log takes six short round trips
LATEST_MS = 253_402_300_799_999  # the end of the year 9999; an id may claim to be later

Entry = dict[str, str]  # type, channel, source, summary, payload_size, timestamp; "id" if read
Command = tuple[Any, ...]


class Read(NamedTuple):
    """The value of a key, None if it is missing, and the seconds until it expires (inf: never)."""

    value: str | None
    left_s: float


class Fenced(redis.RedisError):
    """Nothing was written, because the fence had another value."""


def connect(url: str) -> redis.Redis:
    """A client for `url` that decodes answers to str and never retries.

    Retrying is the caller's decision: a transaction whose answer was lost may have been executed.
    With redis+sentinel://user:password@host:port,host:port/name/db each new connection asks the
    sentinels for the master called name; user and password are the master's, and those of the
    sentinels, if they have any, follow as ?sentinel_username=...&sentinel_password=...
    Options of the URL change nothing that is set here.
    Raises ValueError if `url` is not a Redis URL; the message quotes no part of it.
    """
    once: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # answers have other shapes in RESP3
    }
    text: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "backslashreplace",
        # hiredis' packer would copy every value; this one sends large values as they are.
        "command_packer": PythonRespSerializer(6000, _encode),
    }
    try:
        if parts := re.fullmatch(SENTINEL_URL, url):
            client = _sentinel_master(parts, once, text)
        else:
            if re.fullmatch(r"rediss?://[^/?]*/(?![0-9]*(\?|$)).*", url):
                raise ValueError("redis-py would take 0 for such a database")
            pool: Any = redis.ConnectionPool.from_url(url)
            pool.connection_kwargs |= once | text  # only now: options of the URL come before ours
            client = redis.Redis.from_pool(pool)
        client.connection_pool.make_connection()  # refuses unknown options; connects only when used
    except (ValueError, TypeError):
        raise ValueError(f"must be like {DEFAULT_URL}; / ? # @ in a password as %XX") from None
    return client


def _sentinel_master(url: re.Match[str], once: dict[str, Any], text: dict[str, Any]) -> redis.Redis:
    nodes = [node.rpartition(":") for node in url["nodes"].split(",")]
    options = parse_qsl(url["options"] or "", strict_parsing=bool(url["options"]))
    if unknown := dict(options).keys() - SENTINEL_OPTIONS.keys():
        raise ValueError(f"unknown: {unknown}")
    own = {SENTINEL_OPTIONS[name]: value for name, value in options}
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        [(host.strip("[]"), int(port)) for host, _, port in nodes], sentinel_kwargs=once | own
    )
    client: redis.Redis = sentinel.master_for(
        url["name"],
        username=unquote(url["user"] or "") or None,
        password=unquote(url["password"] or "") or None,
        db=int(url["db"] or 0),
        **once,
        **text,
    )
    return client


def _encode(value: str | bytes | int) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def redact(url: str) -> str:
    """`url` without user, password and options, safe to show even if it is not a good URL."""
    if re.search(r"(?s)\?\w+=.*@", url):  # an @ of a password, before or in the options
        return re.sub(r"(?s)^([a-z+]+://)?.*", r"\1***", url)
    return re.sub(r"(?s)^([a-z+]+://)?.*@", r"\1***@", url).partition("?")[0]


def iso_ms(seconds: float) -> str:
    """Epoch seconds as ISO 8601 UTC with milliseconds: 2026-01-31T12:00:00.000Z."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def check_source(source: str) -> str:
    """`source`, if a program may call itself that; else raises ValueError that says what it may."""
    if not re.fullmatch(r"[a-z0-9-]{1,40}", source):
        accepted = f"1 to 40 characters of a-z 0-9 and -, like {' '.join(SOURCES)}"
        raise ValueError(f"source={source!r}: must be {accepted}")
    return source


class _LoggedOperations:
    """The logged operations; `_do` decides whether a command is sent at once or gathered."""

    source: str

    def _do(self, command: Command | None, entry: Entry) -> None:
        raise NotImplementedError

    def cache_write(
        self, key: str, value: str | bytes, ttl_s: float = math.inf, summary: str = ""
    ) -> None:
        """SET `key` with an absolute expiry `ttl_s` from now: a late command does not extend it."""
        expiry = () if ttl_s == math.inf else ("PXAT", int((time.time() + ttl_s) * 1000))
        self._do(("SET", key, value, *expiry), self._entry("cache_write", key, summary, value))

    def append(self, key: str, fields: dict[str, str], maxlen: int, summary: str = "") -> None:
        """XADD `fields` to the stream `key`, which keeps about `maxlen` entries."""
        texts = tuple(chain(*fields.items()))
        command = ("XADD", key, "MAXLEN", "~", maxlen, "*", *texts)
        self._do(command, self._entry("cache_write", key, summary, "".join(texts)))

    def publish(self, channel: str, payload: str, summary: str = "") -> None:
        self._do(("PUBLISH", channel, payload), self._entry("publish", channel, summary, payload))

    def signal(self, channel: str, payload: str, summary: str = "") -> None:
        """Publish a trading signal."""
        self._do(("PUBLISH", channel, payload), self._entry("signal", channel, summary, payload))

    def trade(self, channel: str, payload: str, summary: str = "") -> None:
        """Publish a trade."""
        self._do(("PUBLISH", channel, payload), self._entry("trade", channel, summary, payload))

    def error(self, channel: str, summary: str) -> None:
        """Log an error that concerns `channel`, a key or a channel; nothing else is sent."""
        self._do(None, self._entry("error", channel, summary, ""))

    def _entry(self, type_: str, channel: str, summary: str, payload: str | bytes | int) -> Entry:
        """A log entry; `payload` is the data, or its size in bytes."""
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
    """Operations that LoggedRedis.send sends together."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.commands: list[Command] = []
        self.entries: list[Entry] = []

    def _do(self, command: Command | None, entry: Entry) -> None:
        if command:
            self.commands.append(command)
        self.entries.append(entry)


class LoggedRedis(_LoggedOperations):
    """Redis for a program called `source`: every operation is executed and logged at once.

    `source` is 1 to 40 characters of a-z, 0-9 and "-"; ValueError otherwise.
    Every method raises redis.RedisError if the operation failed. A log that cannot be written
    never fails the operation: `log_error` says why, and is "" once the log works again.
    """

    def __init__(
        self,
        client: redis.Redis,
        source: str,
        *,
        log_key: str = DEFAULT_KEY,
        log_maxlen: int = DEFAULT_MAXLEN,
    ) -> None:
        self.source = check_source(source)
        self.log_error = ""
        self._client, self._log_key, self._log_maxlen = client, log_key, log_maxlen

    @property
    def db(self) -> int:
        """The number of the database, for payloads: channels are common to all databases."""
        return int(self._client.connection_pool.connection_kwargs.get("db") or 0)

    def batch(self) -> Batch:
        return Batch(self.source)

    def send(self, batch: Batch, fence: tuple[str, str] | None = None) -> None:
        """Send `batch` as one MULTI/EXEC: its writes, its log entries, then its publishes.

        If Redis refuses entries (another type of key, no permission), the rest is sent without
        them. `fence` is a key and the value it must have: if it has another one when the
        transaction executes, nothing is written and Fenced is raised.
        """
        log = [self._xadd(self._log_key, entry) for entry in batch.entries]
        rare = [
            self._xadd(_stream(self._log_key, entry["type"]), entry)
            for entry in batch.entries
            if entry["type"] in RARE_TYPES
        ]
        refused = ""
        for entries in [log + rare, log, []] if rare else [log, []]:
            try:
                answers, reason = self._transact(batch.commands, entries, fence)
                break
            except redis.ResponseError as error:
                full = isinstance(error, redis.exceptions.OutOfMemoryError)
                if not entries or (full and any(each[0] != "PUBLISH" for each in batch.commands)):
                    raise  # a full Redis may have room for the values a moment later
                # Redis refused a command before EXEC, so it executed none of them. If an entry was
                # not the reason, the same error comes again.
                refused = refused or str(error)
        self.log_error = refused or reason
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    def _xadd(self, stream: str, entry: Entry) -> Command:
        return ("XADD", stream, "MAXLEN", "~", self._log_maxlen, "*", *chain(*entry.items()))

    def cache_read(self, *keys: str) -> list[Read]:
        """Read all keys in one transaction; then write one log entry for all of them."""
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
            # From here to EXEC any change of the fence aborts the transaction, so a program that
            # was suspended in between (SIGSTOP, a closed laptop) cannot write stale data.
            if fence and (value := _watch(pipeline, fence[0])) != fence[1]:
                pipeline.connection.disconnect()
                raise Fenced(f"{fence[0]} is {value!r}")
            for command in [*writes, *log, *publishes]:
                pipeline.execute_command(*command)
            try:
                answers = pipeline.execute(raise_on_error=False)
            except redis.WatchError:
                raise Fenced("the fence changed before EXEC") from None
        first, last = len(writes), len(writes) + len(log)
        said = zip(log, answers[first:last], strict=True)
        refused = next((f"{xadd[1]}: {a}" for xadd, a in said if isinstance(a, Exception)), "")
        return answers[:first] + answers[last:], refused


def _watch(pipeline: Any, key: str) -> Any:
    """WATCH `key` and return its value in one round trip; redis-py alone would take two.

    redis-py is not told of this WATCH: its clean-up would send UNWATCH and leak the connection on a
    timeout. A caller that does not go on to EXEC must disconnect instead.
    """
    pipeline.connection = connection = pipeline.connection_pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands([("WATCH", key), ("GET", key)]))
        connection.read_response()
        return connection.read_response()
    except BaseException:  # an unread answer would be taken for that of a later command
        connection.disconnect()
        raise


def _pattern(keys: tuple[str, ...]) -> str:
    """One key unchanged; several as one glob pattern, like market:ohlcv:*:5m."""
    parts = zip(*(key.split(":") for key in keys), strict=False)
    return ":".join(part[0] if len(set(part)) == 1 else "*" for part in parts)


# --- reading the log ---


class Wanted:
    """Which entries to read, as `read_log` takes it. ValueError says what is accepted."""

    def __init__(
        self,
        type: str | Iterable[str] | None = None,
        source: str | None = None,
        before: str | None = None,
        since: str | None = None,
        until: str | None = None,
        q: str | None = None,
    ) -> None:
        self.types = (type,) if isinstance(type, str) else tuple(dict.fromkeys(type or ()))
        self.source, self.text = source, (q or "").lower()
        words = (self.types, () if source is None else (source,))
        self.words = [{word.encode() for word in each} for each in words if each]
        self.is_rare = bool(self.types) and set(self.types) <= set(RARE_TYPES)
        self.first = "-" if since is None else str(_parse_time("since", since))
        self.last = "+" if before is None else f"({_check_id(before)}"
        if until is not None:
            until_ms = _parse_time("until", until)
            if before is None or until_ms < _position(before)[0]:
                self.last = str(until_ms)  # means all entries of that millisecond

    def streams(self, key: str) -> list[str]:
        """The streams of rare types, if nothing else is wanted; else the log."""
        return [_stream(key, type_) for type_ in self.types] if self.is_rare else [key]

    def page(self, limit: int) -> int:
        """How many entries to read at once."""
        all_match = self.source is None and not self.text and (self.is_rare or not self.types)
        return limit if all_match else PAGE

    def first_look(self, page: list[Any]) -> list[Any]:
        """The entries, as Redis sends them, that may match: most do not, and decoding is slow."""
        for words in self.words:
            page = [entry for entry in page if not words.isdisjoint(entry[1])]
        return page

    def matches(self, entry: Entry) -> bool:
        """Whether type, source and text are the wanted ones."""
        texts = (entry.get("channel", ""), entry.get("summary", ""))
        return (
            (not self.types or entry.get("type") in self.types)
            and self.source in (None, entry.get("source"))
            and any(self.text in text.lower() for text in texts)
        )


class Extent(NamedTuple):
    """Of a stream, or of several: the number of entries, and the times of the oldest and of the
    newest, ISO 8601; None if there is no entry."""

    length: int
    oldest: str | None
    newest: str | None


def read_log(
    client: redis.Redis,
    limit: int = 100,
    type: str | Iterable[str] | None = None,
    source: str | None = None,
    *,
    key: str = DEFAULT_KEY,
    before: str | None = None,
    since: str | None = None,
    until: str | None = None,
    q: str | None = None,
) -> list[Entry]:
    """The newest `limit` entries of that type (or types) and source, newest first, with "id".

    If only rare types are wanted, their own streams are read, whose ids are not those of the log.
    `before` is the id of the last entry of the page before, read with the same types. `since` and
    `until` are ISO 8601, in UTC unless they say otherwise. `q` is a text in channel or summary, in
    upper or lower case. None means any. Entries of several streams that have the same id stay
    together, so there may be two more than `limit`. Raises ValueError that says what is accepted.
    """
    wanted = Wanted(type, source, before, since, until, q)
    streams = wanted.streams(key)
    if len(streams) == 1:
        return _read_stream(client, streams[0], limit, wanted)
    found = [entry for each in streams for entry in _read_stream(client, each, limit, wanted)]
    found.sort(key=lambda entry: _position(entry["id"]), reverse=True)
    shown, rest = found[:limit], found[limit:]
    return shown + list(takewhile(lambda entry: entry["id"] == shown[-1]["id"], rest))


def _read_stream(client: redis.Redis, stream: str, limit: int, wanted: Wanted) -> list[Entry]:
    # This client leaves entries as flat lists of bytes: decoding all 10,000 to dicts of str takes
    # as long again as reading them.
    reader: Any = redis.Redis(connection_pool=client.connection_pool)
    reader.set_response_callback("XREVRANGE", lambda response, **_: response)
    count = wanted.page(limit)
    found: list[Entry] = []
    last: str | bytes = wanted.last
    while len(found) < limit:
        page: Any = reader.execute_command(
            "XREVRANGE", stream, last, wanted.first, "COUNT", count, NEVER_DECODE=True
        )
        for id_, flat in wanted.first_look(page):
            texts = [text.decode(errors="backslashreplace") for text in flat]
            fields = dict(zip(texts[::2], texts[1::2], strict=True))
            if wanted.matches(fields):
                found.append(fields | {"id": id_.decode()})
        if len(page) < count:
            break
        last = b"(" + page[-1][0]
    return found[:limit]


def log_extent(
    client: redis.Redis, type: str | Iterable[str] | None = None, *, key: str = DEFAULT_KEY
) -> Extent:
    """The extent of what `read_log` reads for that type, or types."""
    pipeline: Any = client.pipeline(transaction=False)
    for stream in Wanted(type).streams(key):
        pipeline.xlen(stream)
        pipeline.xrange(stream, count=1)
        pipeline.xrevrange(stream, count=1)
    answers = pipeline.execute()
    ends = [id_ for answer in answers if isinstance(answer, list) for id_, _ in answer]
    times = sorted(min(_position(id_)[0], LATEST_MS) for id_ in ends)
    oldest, newest = (iso_ms(times[end] / 1000) if times else None for end in (0, -1))
    return Extent(sum(answers[::3]), oldest, newest)


def follow_log(
    client: redis.Redis, after: str | dict[str, str], *, key: str = DEFAULT_KEY
) -> Iterator[list[Entry]]:
    """Yields the entries added after the entry id `after` as they arrive, oldest first; never ends.

    An empty list means that a second passed without a new entry. Of several streams, `after` is a
    dict of ids by stream, which is kept up to date.
    """
    after = {key: after} if isinstance(after, str) else after
    streams: Any = after
    while True:
        # XREAD must return before the socket times out, which would be an error.
        added: Any = client.xread(streams, block=int(SOCKET_TIMEOUT_S * 500))
        after |= {stream: page[-1][0] for stream, page in added or []}
        entries = [fields | {"id": id_} for _, page in added or [] for id_, fields in page]
        yield sorted(entries, key=lambda entry: _position(entry["id"]))


def _stream(key: str, type_: str) -> str:
    """Where entries of a rare type are."""
    return f"{key}:{type_}"


def _position(id_: str) -> tuple[int, int]:
    """Of an entry in its stream, for comparison: milliseconds since the epoch, and a number."""
    milliseconds, _, number = id_.partition("-")
    return int(milliseconds), int(number)


def _check_id(text: str) -> str:
    is_id = re.fullmatch(r"[0-9]{1,20}-[0-9]{1,20}", text)
    if is_id and _position(text) > (0, 0) and max(_position(text)) < 2**64:
        return text
    raise ValueError(f"before={text!r}: must be the id of an entry, like 1795489650638-0")


def _parse_time(name: str, text: str) -> int:
    """ISO 8601 as milliseconds since the epoch, 0 if it is before."""
    try:
        time_ = datetime.fromisoformat(text)
        utc = time_ if time_.tzinfo else time_.replace(tzinfo=UTC)
        return max(0, round(utc.timestamp() * 1000))
    except ValueError:
        accepted = "a time like 2026-11-24, 2026-11-24T03:07:30Z or 2026-11-24T03:07:30-05:00"
        raise ValueError(f"{name}={text!r}: must be {accepted}") from None


# --- the command ---


def _line(entry: Entry) -> str:
    """An entry as one line. Control characters are escaped: any program may have written it, and
    it must not send commands to the terminal."""
    fields = ("timestamp", "type", "source", "channel", "payload_size", "summary")
    time_, type_, source, channel, size, summary = (entry.get(field, "") for field in fields)
    line = f"{time_}  {type_:<11}  {source:<11}  {channel:<30}  {size:>7} B  {summary}".rstrip()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Print the message log of Redis, oldest first.",
        epilog="Settings: REDIS_URL (redis://127.0.0.1:6379/0) and MESSAGE_LOG_KEY "
        "(redis:message_log).",
    )
    parser.add_argument(
        "--type", choices=TYPES, action="append", help="only entries of this type; may be repeated"
    )
    parser.add_argument(
        "--source", metavar="NAME", help=f"only entries of this program ({', '.join(SOURCES)}, ...)"
    )
    parser.add_argument("--q", metavar="TEXT", help="only entries with this in channel or summary")
    for name, what in (("since", "not older than this"), ("until", "not newer than this")):
        parser.add_argument(f"--{name}", metavar="TIME", help=f"only entries {what}; ISO 8601, UTC")
    parser.add_argument("--before", metavar="ID", help="only entries older than this one (--json)")
    parser.add_argument("--limit", type=int, default=20, help="at most so many entries (20)")
    parser.add_argument("--follow", action="store_true", help="then print new entries as they come")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    if arguments.limit < 1:
        parser.error(f"--limit {arguments.limit}: must be 1 or more")
    if arguments.follow and (arguments.until or arguments.before):
        parser.error("--follow prints what comes: it goes with neither --until nor --before")
    try:
        if arguments.source is not None:
            check_source(arguments.source)
        names = ("type", "source", "before", "since", "until", "q")
        arguments.filters = {name: getattr(arguments, name) for name in names}
        arguments.wanted = Wanted(**arguments.filters)
    except ValueError as error:
        parser.error(f"--{error}")
    return arguments


def _print(entries: Iterable[Entry], arguments: argparse.Namespace) -> None:
    for entry in filter(arguments.wanted.matches, entries):
        print(json.dumps(entry) if arguments.json else _line(entry), flush=arguments.follow)


def _follow(
    client: redis.Redis, key: str, found: list[Entry], arguments: argparse.Namespace
) -> None:
    """Print what comes after `found`, through failures of the connection; never ends."""
    streams = arguments.wanted.streams(key)
    # What is wanted of any stream and was not found is older than all that was.
    after = dict.fromkeys(streams, found[0]["id"] if found else "0-0")
    for entry in found:
        after[streams[0] if len(streams) == 1 else _stream(key, entry["type"])] = entry["id"]
    while True:
        try:
            for entries in follow_log(client, after, key=key):
                _print(entries, arguments)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            print(f"redis_log: {error}; retrying", file=sys.stderr)
            time.sleep(1)


def main() -> int:
    arguments = _arguments()
    url = os.environ.get("REDIS_URL") or DEFAULT_URL
    key = os.environ.get("MESSAGE_LOG_KEY") or DEFAULT_KEY
    try:
        client = connect(url)
        found = read_log(client, arguments.limit, **arguments.filters, key=key)[::-1]
        _print(found, arguments)
        if len(found) < arguments.limit:
            oldest = log_extent(client, arguments.type, key=key).oldest
            reach = f"the log reaches back to {oldest}" if oldest else "the log is empty"
            none = "" if found or not oldest else "no entry matches; "
            print(f"redis_log: {none}{reach}", file=sys.stderr)
        if arguments.follow:
            _follow(client, key, found, arguments)
    except (redis.RedisError, ValueError) as error:
        print(f"redis_log: cannot read {key} at {redact(url)}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, say head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
