"""Connections to the exchange: connecting and answering end in time, and certificates are checked.

The environment is read once, as `requests` documents it: proxies from HTTPS_PROXY, HTTP_PROXY,
ALL_PROXY and NO_PROXY, the CA bundle from REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, and SSL_CERT_FILE.
Knows nothing of the exchange's API. Not bounded: resolving a name, which only the resolver's own
timeouts end; and the handshakes behind an https:// proxy, as long as bytes keep coming.
"""

from __future__ import annotations

import io
import math
import os
import socket
import ssl
import threading
import time
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidProxyURL, InvalidURL
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy
from urllib3 import Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.util import parse_url
from urllib3.util.ssl_ import ALPN_PROTOCOLS, create_urllib3_context

from connecting import Race, resolve, text_of
from environment import is_loopback

CA_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class BoundedAdapter(HTTPAdapter):
    """Connections to the host of `base_url`, for any number of threads.

    `proxy` is the proxy's URL without credentials, "" if there is none; `ca_bundle` is the file or
    folder of the CAs that are trusted.
    """

    def __init__(self, base_url: str, pool_maxsize: int = 1) -> None:
        super().__init__(pool_maxsize=pool_maxsize)
        proxy = _environ_proxy(base_url)
        self._proxies = {"all": proxy} if proxy else {}
        self.proxy = _without_credentials(proxy)
        self.ca_bundle = _environ_ca_bundle()
        # Guards _context: it costs 40 ms and 0.8 MB, so the first workers must not each make one.
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def ask(
        self, request: requests.PreparedRequest, timeout_s: float, give_up_at: float = math.inf
    ) -> requests.Response:
        """Send `request`, and return the answer when its head is there.

        `timeout_s` bounds connecting, and then the whole answer, which must both end before
        `give_up_at`, in monotonic seconds. Nothing is sent later. `network_reason` explains the
        exceptions, HTTPError of urllib3 and OSError, which reading the body raises as well.
        """
        timeout: Any = _Deadline(timeout_s, give_up_at)
        return self.send(request, stream=True, timeout=timeout, proxies=self._proxies)

    # The rest is what HTTPAdapter.send calls.

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        host, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            tls["ssl_context"] = self._tls_context()
        return host, tls

    def cert_verify(self, *args: Any) -> None:
        """Nothing: the shared context has the CA bundle, which urllib3 would load again for each
        connection."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _HTTPSConnection if pool.scheme == "https" else _HTTPConnection
        return pool

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        scheme = parse_url(proxy).scheme
        if scheme not in ("http", "https"):  # connections to others would ignore ConnectionCls
            raise InvalidProxyURL(f"{scheme} is not supported")
        if scheme == "https":
            kwargs["proxy_ssl_context"] = self._tls_context()
        return super().proxy_manager_for(proxy, **kwargs)

    def _tls_context(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = _new_tls_context(self.ca_bundle)
            return self._context


def network_reason(error: Exception) -> str:
    """A short sentence on why there is no whole answer, without credentials. The libraries wrap the
    cause several times."""
    if isinstance(error, InvalidURL):  # its text has the credentials
        return "the proxy in the environment is not an http:// or https:// URL"
    root: BaseException = error
    while not isinstance(root, _NotConnected | _NotInTime) and root.__context__ is not None:
        root = root.__context__
    if isinstance(root, _NotConnected | _NotInTime):
        return root.reason
    if isinstance(root, TimeoutError | ReadTimeoutError):
        return "no whole answer in time"
    if isinstance(root, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {root.verify_message.rstrip('.')}"
    if isinstance(root, ssl.SSLError) and root.reason:
        return f"TLS failed: {root.reason.replace('_', ' ').lower()}"
    return f"connection failed: {text_of(root)}"


# --- the environment ---


def _environ_proxy(url: str) -> str:
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        return ""
    proxy: Any = select_proxy(url, get_environ_proxies(url))
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _without_credentials(proxy: str) -> str:
    try:
        return str(parse_url(proxy)._replace(auth=None)) if proxy else ""
    except LocationParseError:
        return "(not a URL)"


def _environ_ca_bundle() -> str:
    found = (os.environ.get(name) for name in CA_BUNDLES)
    return next(filter(None, found), None) or DEFAULT_CA_BUNDLE_PATH


def _new_tls_context(ca_bundle: str) -> ssl.SSLContext:
    if not os.access(ca_bundle, os.R_OK):
        raise OSError(f"the CA bundle {ca_bundle} cannot be read")
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    kind = "capath" if Path(ca_bundle).is_dir() else "cafile"
    context.load_verify_locations(**{kind: ca_bundle})
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    # urllib3 sets them again with each connection. That frees the list which OpenSSL may just be
    # copying, without the GIL, for a connection of another thread.
    context.set_alpn_protocols = lambda _: None  # type: ignore[assignment]
    return context


# --- bounds ---


class _NotConnected(NewConnectionError):
    def __init__(self, connection: HTTPConnection, reason: str) -> None:
        super().__init__(connection, reason)
        self.reason = reason


class _NotInTime(ConnectTimeoutError):
    def __init__(self, connection: HTTPConnection, reason: str = "no connection in time") -> None:
        super().__init__(connection, reason)
        self.reason = reason


class _Deadline(Timeout):
    """`timeout_s` for connecting, and for the answer, but only until `give_up_at`. The `total` of
    urllib3 would not count what a proxy needs to connect."""

    def __init__(self, timeout_s: float, give_up_at: float) -> None:
        super().__init__(connect=timeout_s, read=timeout_s)
        self._timeout_s, self._give_up_at = timeout_s, give_up_at

    def clone(self) -> _Deadline:
        return _Deadline(self._timeout_s, self._give_up_at)

    def _left_s(self) -> float:
        return min(self._timeout_s, max(0.0, self._give_up_at - time.monotonic()))

    connect_timeout = read_timeout = property(_left_s)


class _BoundedAnswer(io.RawIOBase):
    """One answer, which must arrive whole within the socket's timeout. The socket itself restarts
    its timeout with every byte, so a server that drips bytes would hold a worker for ever.

    HTTPResponse takes this for the socket.
    """

    def __init__(self, sock: Any) -> None:
        super().__init__()
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._give_up_at = time.monotonic() + sock.gettimeout()

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._give_up_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer did not end in time")
        self._sock.settimeout(left_s)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    """Closes the connection after any status but 200: after a 1xx another answer follows, which
    the next request would take for its own."""

    def begin(self) -> None:
        super().begin()
        self.will_close = self.will_close or self.status != 200


def _bounded(sock: Any, **kwargs: Any) -> HTTPResponse:
    answer: Any = _BoundedAnswer(sock)
    return _Answer(answer, **kwargs)


class _HTTPConnection(HTTPConnection):
    """Its `timeout`, which _Deadline gives, bounds the resolving, connecting and handshakes
    together, those with a proxy included; no request is sent if they took longer."""

    response_class: Any = staticmethod(_bounded)
    timeout: float

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.timeout <= 0:
            raise _NotInTime(self)
        super().request(*args, **kwargs)

    def connect(self) -> None:
        self._connect_by = time.monotonic() + self.timeout
        try:
            super().connect()
        except TimeoutError as error:
            raise _NotInTime(self, "no connection in time: TLS handshake") from error
        if time.monotonic() >= self._connect_by:
            raise _NotInTime(self)  # urllib3 closes it

    def _left_s(self) -> float:
        """For sockets, to which 0 would mean not to wait; `connect` sees that it is too late."""
        return max(0.001, self._connect_by - time.monotonic())

    def _new_conn(self) -> socket.socket:
        proxy = f"the proxy {self.proxy.netloc}" if self.proxy else ""
        try:
            addresses = resolve(self._dns_host, self.port)
            with Race(addresses, self.socket_options or (), self._connect_by) as race:
                sock = race.run()
        except TimeoutError as error:
            raise _NotInTime(self, f"{proxy} does not answer" if proxy else str(error)) from error
        except OSError as error:
            raise _NotConnected(self, f"{proxy}: {error}" if proxy else str(error)) from error
        sock.settimeout(self._left_s())
        return sock

    def _tunnel(self) -> None:
        proxy = f"the proxy {self.proxy.netloc}" if self.proxy else ""
        try:
            super()._tunnel()
        except TimeoutError as error:
            raise _NotInTime(self, f"{proxy} does not answer") from error
        except (OSError, HTTPException) as error:
            raise _NotConnected(self, f"{proxy}: {text_of(error)}") from error
        self.sock.settimeout(self._left_s())


class _HTTPSConnection(_HTTPConnection, HTTPSConnection):
    """The handshake takes the socket's timeout as the bound of the whole."""
