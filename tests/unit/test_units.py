"""The systemd unit files beside each other."""

from __future__ import annotations

import re

from tests.support import ROOT


def lines(name: str, after: str = "[Service]") -> list[str]:
    """Its lines of the kind NAME=value from the line that begins with `after`, up to [Install]."""
    part = (ROOT / name).read_text().partition(f"\n{after}")[2].partition("\n[Install]")[0]
    return re.findall(r"^\w+=.*$", part, re.MULTILINE)


def test_consumers_are_hardened_as_the_service_is() -> None:
    hardening = lines("coinex-market-data.service", "# Hardening")
    assert "NoNewPrivileges=yes" in hardening and "UMask=0077" in hardening
    assert lines("coinex-consumer@.service", "# Hardening") == hardening


def test_what_needs_a_user_namespace_is_left_out_and_nothing_else() -> None:
    hardening = dict(line.split("=", 1) for line in lines("coinex-market-data.service"))
    reset = dict(line.split("=", 1) for line in lines("no-user-namespaces.conf"))
    assert set(reset.values()) == {"no", ""} and reset.keys() < hardening.keys()
    left = hardening.keys() - reset.keys()
    assert not [name for name in left if name.startswith(("Protect", "Private", "Inaccessible"))]
