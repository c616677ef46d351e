"""The HTTP side of the dashboard: its pages and their files, /api/, and the stream of events."""

from __future__ import annotations

import logging
import queue
import socket
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import redis

import journal
from consumers.api import Api, BadRequest
from consumers.content import CONTENT_TYPES, Content, accepts_gzip
from consumers.events import MAX_LISTENERS, Events, Listener
from consumers.market_cache import NoData
from http_server import JsonHandler, JsonServer

# An event that pages see, unlike a comment: one that hears none for 6 s connects anew.
HEARTBEAT_S = 2.0
HEARTBEAT = b"event: heartbeat\ndata: {}\n\n"
# A client that is gone without a word keeps its place among the listeners for this long.
UNACKNOWLEDGED_MS = 20_000
STATIC = Path(__file__).parent / "static"
PAGES = {"/": "scanner/page.html", "/trades": "trades/page.html", "/status": "status/page.html"}


class _Handler(JsonHandler):
    server: PageServer
    indent = None

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        try:
            self._answer(path, query)
        except BadRequest as error:
            self.send_json(400, {"error": str(error)})
        except NoData as error:
            self.send_json(404, {"error": str(error)})
        except redis.RedisError as error:
            self.send_json(503, {"error": f"Redis: {error}"})
        except OSError:  # the client is gone
            raise
        except Exception:
            journal.event(logging.ERROR, "bug", path=path, traceback=traceback.format_exc())
            self.send_json(500, {"error": "a defect of the dashboard; its log says more"})

    do_HEAD = do_GET

    def _answer(self, path: str, query: str) -> None:
        server = self.server
        if file := server.files.get(path):
            self._send_content(file)
        elif path == "/api/events":
            self._send_events()
        elif path in server.api.routes:
            self._send_content(Content.of_answer(server.api.answer(path, query)))
        elif path == "/api/trades.csv":
            payload = server.api.trades_csv(query)
            named = {"Content-Disposition": 'attachment; filename="trades.csv"'}
            self.send_bytes(200, payload, "text/csv; charset=utf-8", **named)
        else:
            paths = [*PAGES, *server.api.routes, "/api/trades.csv", "/api/events"]
            self.send_json(404, {"error": "not found", "paths": paths})

    def end_headers(self) -> None:
        # The pages show whatever is in Redis as text. Should one ever fail to, the browser still
        # runs no script but ours.
        policy = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        super().end_headers()

    def _send_content(self, content: Content) -> None:
        """Send it unless the client has it already, gzipped if the client accepts that."""
        headers = {**content.headers, "Vary": "Accept-Encoding"}
        if content.is_known(self.headers.get("If-None-Match", "")):
            self._send_not_modified(headers)
        elif accepts_gzip(self.headers.get("Accept-Encoding", "")) and content.gzipped:
            headers["Content-Encoding"] = "gzip"
            self.send_bytes(200, content.gzipped, content.content_type, **headers)
        else:
            self.send_bytes(200, content.payload, content.content_type, **headers)

    def _send_not_modified(self, headers: dict[str, str]) -> None:
        self.send_response(304)
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_events(self) -> None:
        """Send events until the client goes or falls too far behind."""
        with self.server.events.listener() as listener:
            if listener is None:
                self.send_json(503, {"error": f"more than {MAX_LISTENERS} listen already"})
                return
            self.close_connection = True  # the body has no length, so its end must close it
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Accel-Buffering", "no")  # else nginx keeps events back
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "GET":
                self._pass_on(listener)

    def _pass_on(self, listener: Listener) -> None:
        """A heartbeat every 2 s, whatever else there is to send."""
        option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        self.connection.setsockopt(*option)
        beat_at = time.monotonic()
        while not listener.dropped:
            if (left_s := beat_at - time.monotonic()) <= 0:
                self.wfile.write(HEARTBEAT)
                left_s = HEARTBEAT_S
                beat_at = time.monotonic() + HEARTBEAT_S
            with suppress(queue.Empty):
                self.wfile.write(listener.get(timeout=left_s))


class PageServer(JsonServer):
    """Serves the pages, the answers of `api` and what `events` passes on."""

    def __init__(
        self, host: str, port: int, api: Api, events: Events, names: Iterable[str] = ()
    ) -> None:
        """Listens at once; OSError if it cannot."""
        self.api, self.events = api, events
        # Read once: a running program answers with the files that belong to it.
        self.files = {path: Content.of_file(STATIC / name) for path, name in PAGES.items()}
        self.files |= {
            f"/static/{file.relative_to(STATIC)}": Content.of_file(file)
            for file in STATIC.rglob("*")
            if file.suffix in CONTENT_TYPES and file.suffix != ".html"
        }
        super().__init__(host, port, _Handler, names)
