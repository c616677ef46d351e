"""Connections over real sockets: TLS, proxies, several addresses for a name, and deadlines.

Where something must end in time, the wrong thing would take SILENT_S or end for another reason.
"""

from __future__ import annotations

import datetime
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from urllib3.exceptions import HTTPError

from connecting import Race
from connections import BoundedAdapter, network_reason
from tests.support import PATIENCE, free_port, until

NAME = "exchange.test"
SILENT_S = 30 * PATIENCE
# Enough for a busy machine to connect; no test waits for so long unless it fails.
TIMEOUT_S = 5 * PATIENCE
SOON_S = 0.5
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
ENDED = threading.Event()
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE")
Talk = Callable[[socket.socket, list[bytes]], None]


class Server:
    """Talks to each connection in a thread of its own. `heard` is what came, a head an entry."""

    def __init__(self, talk: Talk) -> None:
        self._talk, self.heard, self.accepted = talk, list[bytes](), 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._run, args=[connection], daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            self._talk(connection, self.heard)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def answer(connection: socket.socket, heard: list[bytes]) -> None:
    while head := _head(connection):
        heard.append(head)
        connection.sendall(OK)


def silent(connection: socket.socket, heard: list[bytes]) -> None:
    heard.append(_head(connection))
    ENDED.wait(SILENT_S)


def tunnel(then: Talk, reply: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Talk:
    """A proxy that is itself what it connects to."""

    def talk(connection: socket.socket, heard: list[bytes]) -> None:
        heard.append(_head(connection))
        connection.sendall(reply)
        then(connection, heard)

    return talk


def drip(start: bytes) -> Talk:
    def talk(connection: socket.socket, heard: list[bytes]) -> None:
        heard.append(connection.recv(65536))
        connection.sendall(start)
        give_up_at = time.monotonic() + SILENT_S
        while time.monotonic() < give_up_at and not ENDED.wait(0.02):
            connection.sendall(b"x")

    return talk


def relay(port: int) -> Talk:
    """Passes on what comes to `port` of this machine, and back."""

    def talk(connection: socket.socket, heard: list[bytes]) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=_copy, args=[server, connection], daemon=True)
            back.start()
            _copy(connection, server)
            server.shutdown(socket.SHUT_RDWR)
            back.join(SILENT_S)

    return talk


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)


def _head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (part := connection.recv(65536)):
            return b""
        head += part
    return head


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*VARIABLES, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    ENDED.clear()
    yield
    ENDED.set()


@pytest.fixture
def serve() -> Iterator[Callable[[Talk], Server]]:
    servers: list[Server] = []

    def start(talk: Talk) -> Server:
        servers.append(Server(talk))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bundle = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return bundle


def tls(certificate: trustme.LeafCert, then: Talk = answer) -> Talk:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    def talk(connection: socket.socket, heard: list[bytes]) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            then(secured, heard)

    return talk


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """resolve(*ports): NAME has these loopback addresses."""
    real = socket.getaddrinfo

    def set_addresses(*ports: int, before: Callable[[], None] = lambda: None) -> None:
        def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
            if host != NAME:
                return real(host, port, *args, **kwargs)
            before()
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*kind, ("127.0.0.1", number)) for number in ports]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return set_addresses


@contextmanager
def black_holes(count: int) -> Iterator[list[int]]:
    """Ports that never answer a SYN, for their backlogs are full."""
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            ports.append(listener.getsockname()[1])
        yield ports


def ask(adapter: BoundedAdapter, url: str, **bounds: float) -> bytes:
    request = requests.Request("GET", url).prepare()
    with adapter.ask(request, **{"timeout_s": TIMEOUT_S, **bounds}) as response:
        return response.raw.read()


def get(url: str, **bounds: float) -> bytes:
    return ask(BoundedAdapter(url), url, **bounds)


def reason(url: str, **bounds: float) -> str:
    started = time.monotonic()
    with pytest.raises((HTTPError, OSError)) as raised:
        get(url, **bounds)
    assert time.monotonic() - started < SILENT_S / 2
    return network_reason(raised.value)


class TestTls:
    def test_parallel_connections_share_one_context(
        self,
        serve: Callable[[Talk], Server],
        ca: trustme.CA,
        trusted: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        all_there = threading.Barrier(8)

        def together(connection: socket.socket, heard: list[bytes]) -> None:
            heard.append(_head(connection))
            all_there.wait(SILENT_S)
            connection.sendall(OK)

        server = serve(tls(ca.issue_cert("127.0.0.1"), together))
        made, loaded = [], []
        new, load = ssl.SSLContext.__new__, ssl.SSLContext.load_verify_locations
        monkeypatch.setattr(
            ssl.SSLContext, "__new__", lambda cls, *a: made.append(1) or new(cls, *a)
        )
        monkeypatch.setattr(
            ssl.SSLContext,
            "load_verify_locations",
            lambda self, *a, **k: loaded.append(1) or load(self, *a, **k),
        )
        url = f"https://127.0.0.1:{server.port}/"
        adapter = BoundedAdapter(url, pool_maxsize=8)
        assert not made  # only with the first connection
        answers: list[bytes] = []
        workers = [
            threading.Thread(target=lambda: answers.append(ask(adapter, url))) for _ in range(8)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SILENT_S)
        assert answers == [b"{}"] * 8 and server.accepted == 8
        assert (len(made), len(loaded)) == (1, 1)

    def test_http_needs_no_context(
        self, serve: Callable[[Talk], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/does/not/exist")
        assert get(f"http://127.0.0.1:{serve(answer).port}/") == b"{}"

    def test_connections_are_kept(
        self, serve: Callable[[Talk], Server], ca: trustme.CA, trusted: Path
    ) -> None:
        server = serve(tls(ca.issue_cert("127.0.0.1")))
        url = f"https://127.0.0.1:{server.port}/"
        adapter = BoundedAdapter(url)
        assert [ask(adapter, url) for _ in range(3)] == [b"{}"] * 3
        assert server.accepted == 1

    @pytest.mark.parametrize(
        ("bad", "why"),
        [
            ("issuer", "unable to get local issuer certificate"),
            ("name", "Hostname mismatch, certificate is not valid for 'exchange.test'"),
            ("date", "certificate has expired"),
        ],
    )
    def test_a_bad_certificate_is_refused(
        self,
        serve: Callable[[Talk], Server],
        resolve: Callable[..., None],
        ca: trustme.CA,
        trusted: Path,
        bad: str,
        why: str,
    ) -> None:
        past = datetime.datetime(2001, 1, 1)
        certificate = {
            "issuer": lambda: trustme.CA().issue_cert(NAME),
            "name": lambda: ca.issue_cert("api.exchange.test"),
            "date": lambda: ca.issue_cert(NAME, not_after=past),
        }[bad]()
        server = serve(tls(certificate))
        resolve(server.port)
        assert reason(f"https://{NAME}/") == f"certificate verify failed: {why}"
        assert server.accepted == 1 and server.heard == []

    def test_a_server_without_tls(self, serve: Callable[[Talk], Server], trusted: Path) -> None:
        server = serve(lambda connection, _: connection.sendall(OK))
        assert reason(f"https://127.0.0.1:{server.port}/") == "TLS failed: wrong version number"

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
    def test_the_environment_names_the_trusted(
        self,
        serve: Callable[[Talk], Server],
        ca: trustme.CA,
        trusted: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        url = f"https://127.0.0.1:{serve(tls(ca.issue_cert('127.0.0.1'))).port}/"
        assert "certificate verify failed" in reason(url)
        monkeypatch.setenv(name, str(trusted))
        assert BoundedAdapter(url).ca_bundle == str(trusted)
        assert get(url) == b"{}"

    def test_a_bundle_that_is_not_there_trusts_nobody(
        self, serve: Callable[[Talk], Server], ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/does/not/exist")
        url = f"https://127.0.0.1:{serve(tls(ca.issue_cert('127.0.0.1'))).port}/"
        assert reason(url).endswith("the CA bundle /does/not/exist cannot be read")


class TestProxies:
    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
    def test_https_goes_through_a_tunnel(
        self,
        serve: Callable[[Talk], Server],
        ca: trustme.CA,
        trusted: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        proxy = serve(tunnel(tls(ca.issue_cert(NAME))))
        monkeypatch.setenv(name, f"http://user:secret@127.0.0.1:{proxy.port}")
        adapter = BoundedAdapter(f"https://{NAME}")
        assert adapter.proxy == f"http://127.0.0.1:{proxy.port}"
        for _ in range(2):
            assert ask(adapter, f"https://{NAME}/api?x=1") == b"{}"
        connect, *asked = proxy.heard
        assert connect.startswith(b"CONNECT exchange.test:443 HTTP/1.")
        assert b"Proxy-Authorization: Basic " in connect
        assert [head.split(b"\r\n")[0] for head in asked] == [b"GET /api?x=1 HTTP/1.1"] * 2
        assert not any(b"Proxy-Authorization" in head for head in asked)

    def test_a_proxy_that_speaks_tls(
        self,
        serve: Callable[[Talk], Server],
        ca: trustme.CA,
        trusted: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server = serve(tls(ca.issue_cert(NAME)))
        proxy = serve(tls(ca.issue_cert("127.0.0.1"), tunnel(relay(server.port))))
        monkeypatch.setenv("HTTPS_PROXY", f"https://127.0.0.1:{proxy.port}")
        assert get(f"https://{NAME}/api") == b"{}"
        assert proxy.heard[0].startswith(b"CONNECT exchange.test:443 ")
        assert server.heard[0].startswith(b"GET /api ")

    def test_tls_to_the_proxy_is_verified(
        self,
        serve: Callable[[Talk], Server],
        ca: trustme.CA,
        trusted: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(connection: socket.socket, heard: list[bytes]) -> None:
            tunnel(lambda *_: None, b"HTTP/1.1 403 Not for you\r\n\r\n")(connection, heard)

        for certificate, why in [
            (ca.issue_cert("127.0.0.1"), "Tunnel connection failed: 403 Not for you"),
            (trustme.CA().issue_cert("127.0.0.1"), "certificate verify failed: "),
        ]:
            proxy = serve(tls(certificate, refuse))
            monkeypatch.setenv("HTTPS_PROXY", f"https://127.0.0.1:{proxy.port}")
            assert why in reason(f"https://{NAME}/")

    def test_http_is_asked_of_the_proxy(
        self, serve: Callable[[Talk], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = serve(answer)
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
        assert get(f"http://{NAME}/api") == b"{}"
        assert proxy.heard[0].startswith(b"GET http://exchange.test/api HTTP/1.1\r\n")

    def test_the_certificate_behind_a_proxy_is_verified(
        self,
        serve: Callable[[Talk], Server],
        trusted: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        proxy = serve(tunnel(tls(trustme.CA().issue_cert(NAME))))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert "certificate verify failed: unable to get" in reason(f"https://{NAME}/")
        assert len(proxy.heard) == 1

    def test_no_proxy(
        self,
        serve: Callable[[Talk], Server],
        resolve: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        proxy, server = serve(answer), serve(answer)
        resolve(server.port)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "other.test, .exchange.test")
        assert get(f"http://{NAME}/") == b"{}"
        assert (proxy.accepted, len(server.heard)) == (0, 1)

    def test_this_machine_is_asked_directly(
        self, serve: Callable[[Talk], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy, server = serve(answer), serve(answer)
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert get(f"http://127.0.0.1:{server.port}/") == b"{}"
        assert proxy.accepted == 0

    @pytest.mark.parametrize(
        "talk",
        [silent, drip(b""), drip(b"HTTP/1.1 200 OK\r\nX-Slow: "), drip(b"HTTP/1.1 407 No")],
        ids=["silence", "status", "headers", "refusal"],
    )
    def test_a_proxy_that_does_not_answer(
        self, serve: Callable[[Talk], Server], monkeypatch: pytest.MonkeyPatch, talk: Talk
    ) -> None:
        proxy = serve(talk)
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{proxy.port}")
        expected = f"the proxy 127.0.0.1:{proxy.port} does not answer"
        assert reason(f"https://{NAME}/", timeout_s=SOON_S) == expected
        assert proxy.accepted == 1

    def test_other_failures_of_a_proxy(
        self, serve: Callable[[Talk], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusing = serve(tunnel(silent, b"HTTP/1.1 407 Who are you\r\n\r\n"))
        nobody = free_port()
        for port, why in [
            (refusing.port, "Tunnel connection failed: 407 Who are you"),
            (nobody, "connection failed: Connection refused"),
        ]:
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{port}")
            assert reason(f"https://{NAME}/") == f"the proxy 127.0.0.1:{port}: {why}"

    @pytest.mark.parametrize(
        "proxy", ["http://user:secret@[", "socks5://user:secret@127.0.0.1", "ftp://user:secret@h"]
    )
    def test_what_is_no_proxy_is_not_gone_round(
        self,
        serve: Callable[[Talk], Server],
        resolve: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
        proxy: str,
    ) -> None:
        server = serve(answer)
        resolve(server.port)
        monkeypatch.setenv("HTTP_PROXY", proxy)
        assert "secret" not in BoundedAdapter(f"http://{NAME}").proxy
        why = "the proxy in the environment is not an http:// or https:// URL"
        assert reason(f"http://{NAME}/") == why
        assert server.accepted == 0

    def test_an_answer_through_a_proxy_is_bounded(
        self,
        serve: Callable[[Talk], Server],
        ca: trustme.CA,
        trusted: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        slow = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n")
        proxy = serve(tunnel(tls(ca.issue_cert(NAME), slow)))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        soon = time.monotonic() + SOON_S * PATIENCE
        why = reason(f"https://{NAME}/", timeout_s=SILENT_S, give_up_at=soon)
        assert why == "no whole answer in time"


class TestAddresses:
    def test_dead_addresses_before_a_good_one(
        self, serve: Callable[[Talk], Server], resolve: Callable[..., None]
    ) -> None:
        """One after the other, the first would use up all the time."""
        server = serve(answer)
        with black_holes(6) as dead:
            resolve(*dead, server.port)
            assert get(f"http://{NAME}/") == b"{}"

    def test_one_bound_for_all_addresses(self, resolve: Callable[..., None]) -> None:
        """One after the other, they would take TIMEOUT_S each."""
        with black_holes(8) as dead:
            resolve(*dead * 20)
            expected = "no connection in time to 160 addresses"
            assert reason(f"http://{NAME}/", timeout_s=SOON_S) == expected

    def test_a_refusal_is_followed_by_the_next_address_at_once(
        self,
        serve: Callable[[Talk], Server],
        resolve: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("connecting.ATTEMPT_DELAY_S", SILENT_S)
        resolve(free_port(), free_port(), serve(answer).port)
        assert get(f"http://{NAME}/") == b"{}"

    def test_all_refuse(self, resolve: Callable[..., None]) -> None:
        resolve(free_port(), free_port())
        assert reason(f"http://{NAME}/") == "connection failed: Connection refused"

    def test_the_reason_names_the_last_failure(self, resolve: Callable[..., None]) -> None:
        with black_holes(2) as dead:
            resolve(free_port(), *dead)
            why = reason(f"http://{NAME}/", timeout_s=SOON_S * PATIENCE)
        assert why == "no connection in time to 3 addresses, last: Connection refused"

    def test_the_losers_are_closed(
        self,
        serve: Callable[[Talk], Server],
        resolve: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        started: list[socket.socket] = []
        connect_ex = socket.socket.connect_ex

        class Recorded(socket.socket):
            def connect_ex(self, address: Any) -> int:
                started.append(self)
                return connect_ex(self, address)

        url = f"http://{NAME}/"
        adapter = BoundedAdapter(url)
        with black_holes(3) as dead:
            resolve(*dead, serve(answer).port)
            monkeypatch.setattr(socket, "socket", Recorded)
            ask(adapter, url)
            closed = [sock.fileno() == -1 for sock in started]
        assert closed == [True, True, True, False]

    def test_a_name_that_does_not_resolve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        expected = f"the name {NAME} does not resolve: Temporary failure in name resolution"
        assert reason(f"https://{NAME}/") == expected


class TestDeadlines:
    @pytest.mark.parametrize(
        "talk", [silent, drip(b"\x16\x03\x03\x40\x00")], ids=["silence", "drips"]
    )
    def test_a_handshake_that_does_not_end(
        self, serve: Callable[[Talk], Server], talk: Talk
    ) -> None:
        url = f"https://127.0.0.1:{serve(talk).port}/"
        assert reason(url, timeout_s=SOON_S) == "no connection in time: TLS handshake"

    def test_nothing_is_sent_if_connecting_took_all_the_time(
        self, serve: Callable[[Talk], Server], resolve: Callable[..., None]
    ) -> None:
        server = serve(answer)
        give_up_at = time.monotonic() + SOON_S

        def wait() -> None:
            # Connecting began a moment after the deadline was computed, and may end as much later.
            while time.monotonic() < give_up_at + 1:
                time.sleep(0.01)

        resolve(server.port, before=wait)
        assert reason(f"http://{NAME}/", give_up_at=give_up_at) == "no connection in time"
        assert server.accepted == 0

    def test_nothing_is_sent_on_a_connection_that_came_too_late(
        self, serve: Callable[[Talk], Server], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, run = serve(answer), Race.run
        give_up_at = time.monotonic() + SOON_S * PATIENCE

        def run_late(race: Race) -> socket.socket:
            sock = run(race)
            while time.monotonic() < give_up_at:
                time.sleep(0.01)
            return sock

        monkeypatch.setattr(Race, "run", run_late)
        url = f"http://127.0.0.1:{server.port}/"
        assert reason(url, give_up_at=give_up_at) == "no connection in time"
        until(lambda: server.accepted, 5)
        assert server.heard == []

    def test_nothing_is_sent_too_late_on_a_kept_connection(
        self, serve: Callable[[Talk], Server]
    ) -> None:
        server = serve(answer)
        url = f"http://127.0.0.1:{server.port}/"
        adapter = BoundedAdapter(url)
        ask(adapter, url)
        with pytest.raises(OSError) as raised:
            ask(adapter, url, give_up_at=time.monotonic())
        assert network_reason(raised.value) == "no connection in time"
        ask(adapter, url)
        assert len(server.heard) == 2

    def test_the_answer_has_the_time_that_is_left(self, serve: Callable[[Talk], Server]) -> None:
        server = serve(silent)
        url = f"http://127.0.0.1:{server.port}/"
        why = reason(url, timeout_s=SILENT_S, give_up_at=time.monotonic() + SOON_S * PATIENCE)
        assert why == "no whole answer in time"
        until(lambda: server.heard, 5)

    def test_without_a_deadline_only_the_timeout_counts(
        self, serve: Callable[[Talk], Server]
    ) -> None:
        url = f"http://127.0.0.1:{serve(silent).port}/"
        expected = "no whole answer in time"
        assert reason(url, timeout_s=SOON_S, give_up_at=math.inf) == expected
