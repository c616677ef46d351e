"""Which proxy and which CAs the environment names, and the order of addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from requests.certs import where

from connecting import interleaved
from connections import BoundedAdapter

URL = "https://api.binance.us"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CA_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*VARIABLES, *CA_BUNDLES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    yield


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        (URL, {}, ""),
        (URL, {"HTTP_PROXY": "http://p:1"}, ""),
        (URL, {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        (URL, {"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "http://q:2"),
        (URL, {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:2"}, "http://q:2"),
        (URL, {"HTTPS_PROXY": ""}, ""),
        (URL, {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        (URL, {"HTTPS_PROXY": "http://me:secret@p:1"}, "http://p:1"),
        (URL, {"HTTPS_PROXY": "https://me@p"}, "https://p"),
        (URL, {"HTTPS_PROXY": "me:secret@p:1"}, "http://p:1"),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "binance.us"}, ""),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, ""),
        (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "us.binance"}, "http://p:1"),
        ("http://10.1.2.3:80", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://10.1.2.3:80", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, ""),
    ],
)
def test_the_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, environ: dict[str, str], proxy: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert BoundedAdapter(url).proxy == proxy


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "localhost:8000"])
def test_this_machine_has_no_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    assert BoundedAdapter(f"http://{host}").proxy == BoundedAdapter(f"https://{host}").proxy == ""


def test_the_ca_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BoundedAdapter(URL).ca_bundle == where()
    for name in reversed(CA_BUNDLES):  # each comes before those that are set already
        monkeypatch.setenv(name, f"/{name}")
        assert BoundedAdapter(URL).ca_bundle == f"/{name}"
    monkeypatch.setenv(CA_BUNDLES[0], "")
    assert BoundedAdapter(URL).ca_bundle == f"/{CA_BUNDLES[1]}"


@pytest.mark.parametrize(
    ("resolved", "tried"),
    [("", ""), ("4", "4"), ("666444", "646464"), ("44466", "46464"), ("64444", "64444")],
)
def test_families_take_turns_from_the_preferred_one_on(resolved: str, tried: str) -> None:
    families = {"4": socket.AF_INET, "6": socket.AF_INET6}
    addresses: list[Any] = [
        (families[kind], socket.SOCK_STREAM, 0, "", (f"host{index}", 443))
        for index, kind in enumerate(resolved)
    ]
    in_order = list(interleaved(addresses))
    assert [address[0] for address in in_order] == [families[kind] for kind in tried]
    for family in families.values():
        same = [address for address in in_order if address[0] == family]
        assert same == [address for address in addresses if address[0] == family]
