"""What HTTP needs to send the same content only once, and small: ETags and gzip."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
LEAST_TO_COMPRESS = 1_000  # bytes; less fits into one packet anyway


class Content:
    """Bytes to be sent, with the headers that belong to them, `ETag` among these."""

    def __init__(self, payload: bytes, content_type: str, headers: dict[str, str]) -> None:
        self.payload, self.content_type, self.headers = payload, content_type, headers

    @classmethod
    def of_file(cls, path: Path) -> Content:
        """Browsers keep it, but ask each time whether it is still the same: a page and its modules
        are always of one version."""
        payload = path.read_bytes()
        headers = {"ETag": etag(payload), "Cache-Control": "no-cache"}
        return cls(payload, CONTENT_TYPES[path.suffix], headers)

    @classmethod
    def of_answer(cls, answer: Mapping[str, Any]) -> Content:
        """JSON, which nobody keeps. `timestamp` differs in each answer: the ETag leaves it out, and
        it has its own header for who is told only that nothing else has changed.

        Raises ValueError if the answer holds a NaN or an infinity.
        """
        payload = f"{json.dumps(answer, allow_nan=False)}\n".encode()
        lasting = {name: value for name, value in answer.items() if name != "timestamp"}
        headers = {"ETag": etag(json.dumps(lasting).encode()), "Cache-Control": "no-store"}
        if "timestamp" in answer:
            headers["X-Timestamp"] = str(answer["timestamp"])
        return cls(payload, "application/json", headers)

    @cached_property
    def gzipped(self) -> bytes | None:
        """None if there is little to gain."""
        if len(self.payload) < LEAST_TO_COMPRESS:
            return None
        return gzip.compress(self.payload, compresslevel=6, mtime=0)

    def is_known(self, if_none_match: str) -> bool:
        """Whether a client that sends this If-None-Match has it already."""
        tags = re.findall(r'"[^"]*"', if_none_match)
        return if_none_match.strip() == "*" or self.headers["ETag"].removeprefix("W/") in tags


def etag(content: bytes) -> str:
    """A weak one: it names the content, whether that is sent gzipped or not."""
    return f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'


def accepts_gzip(accept_encoding: str) -> bool:
    for coding in accept_encoding.lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight)
    return False
