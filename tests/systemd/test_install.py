"""`make install` and `make uninstall` on machines that are not all alike."""

from __future__ import annotations

from collections.abc import Callable

from tests.systemd.conftest import CONSUMERS, DROP_IN, UNIT, Unit


def seen_in(unit: Unit, hardening: str) -> str:
    """A line of /proc/PID/status of the service."""
    return unit.run("sed", "-n", rf"s/^{hardening}:\s*//p", f"/proc/{unit.pid()}/status")


def test_a_machine_may_forbid_user_namespaces(
    unit: Unit, no_user_namespaces: Callable[[], None]
) -> None:
    assert unit.show("ExecMainStatus") == "217", "with all its hardening it cannot start there"
    said = unit.make("install")
    unit.wait_until_ok()
    assert "forbids user namespaces (status=217/USER)" in said
    assert "Left out of the hardening: PrivateUsers ProtectSystem ProtectHome" in said
    assert unit.show("PrivateUsers") == "no"
    assert unit.show("MemoryDenyWriteExecute") == "yes"
    assert (seen_in(unit, "NoNewPrivs"), seen_in(unit, "Seccomp")) == ("1", "2")

    no_user_namespaces()  # allowed again
    assert "Left out" not in unit.make("install")
    unit.wait_until_ok()
    assert unit.show("PrivateUsers") == "yes"
    unit.run("test", "-e", DROP_IN, code=1)


def test_so_it_is_with_all_units_and_uninstall_leaves_the_users_own_drop_ins(
    unit: Unit, no_user_namespaces: Callable[[], None]
) -> None:
    unit.write(f"{DROP_IN}/own.conf", "[Service]\nNice=5\n")
    assert unit.make("install-all").count("Left out of the hardening") == 1
    unit.wait_until_all_ok()
    assert {unit.show("PrivateUsers", each) for each in [UNIT, *CONSUMERS]} == {"no"}
    assert unit.run("ls", DROP_IN) == "no-user-namespaces.conf\nown.conf"
    unit.make("uninstall")
    assert unit.run("ls", DROP_IN) == "own.conf"
    unit.run("test", "-e", DROP_IN.replace(UNIT, "coinex-consumer@.service"), code=1)
