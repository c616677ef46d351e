"""The HTTP side of the dashboard: its pages and their files, /api/, and the stream of events."""

from __future__ import annotations

import logging
import queue
import traceback
from collections.abc import Iterable
from pathlib import Path

import redis

import journal
from consumers import live
from consumers.api import Api, BadRequest
from consumers.live import Events
from consumers.market_cache import NoData
from http_server import JsonHandler, JsonServer

KEEP_ALIVE_S = 10.0  # between two messages of /api/events: a write shows whether the client is gone
STATIC = Path(__file__).parent / "static"
PAGES = {"/": "scanner/page.html", "/trades": "trades/page.html", "/status": "status/page.html"}
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


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
            self.send_bytes(200, file.read_bytes(), CONTENT_TYPES[file.suffix])
        elif path == "/api/events":
            self._send_events()
        elif path in server.api.routes:
            self.send_json(200, server.api.answer(path, query))
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

    def _send_events(self) -> None:
        """Send events until the client goes or falls too far behind."""
        with self.server.events.listener() as listener:
            if listener is None:
                self.send_json(503, {"error": f"more than {live.MAX_LISTENERS} listen already"})
                return
            self.close_connection = True  # the body has no length, so its end must close it
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Connection", "close")
            self.end_headers()
            message = b": welcome\n\n"
            while self.command == "GET" and not listener.dropped:
                self.wfile.write(message)
                try:
                    message = listener.get(timeout=KEEP_ALIVE_S)
                except queue.Empty:
                    message = b": still here\n\n"


class PageServer(JsonServer):
    """Serves the pages, the answers of `api` and what `events` passes on."""

    def __init__(
        self, host: str, port: int, api: Api, events: Events, names: Iterable[str] = ()
    ) -> None:
        """Listens at once; OSError if it cannot."""
        self.api, self.events = api, events
        self.files = {path: STATIC / name for path, name in PAGES.items()}
        self.files |= {
            f"/static/{file.relative_to(STATIC)}": file
            for file in STATIC.rglob("*")
            if file.suffix in CONTENT_TYPES and file.suffix != ".html"
        }
        super().__init__(host, port, _Handler, names)
