"""What is wrong with the service, in the words of a banner: its /health, distilled."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from consumers.market_cache import BAD_DATA

NOT_ASKED = "not asked yet"  # the error of a service that was not yet asked for its /health

# The problems that leave readers without data, the worst first, as headlines.
_HEADLINES = {
    "redis": "The service cannot write to Redis",
    "loops": "The service hangs",
    "exchange": "The exchange refuses",
    "standstill": "The exchange stands still",
}
_NO_JSON = re.compile(r"the answer is not JSON: (?=['\"]\s*<)")

Trouble = dict[str, Any]


def trouble(service: dict[str, Any]) -> Trouble | None:
    """`status` of the service ("silent" if it does not answer), a headline `text`, its `detail`,
    `since` and `until` when, ISO times or None. None if nothing is wrong, or not known yet.

    Of an unchanged state it is the same at each call: no seconds that run down.
    """
    health = service["health"]
    if health is None:
        if service["error"] == NOT_ASKED:
            return None
        return _trouble("silent", "The service does not answer", service["error"])
    try:
        if health["status"] in ("ok", "standby"):
            return None
        return _worst(health)
    except BAD_DATA:
        return _trouble("silent", "The service does not answer", "its /health lacks fields")


def _worst(health: dict[str, Any]) -> Trouble:
    status, problems = health["status"], health["problems"]
    since = health.get("problems_since", {})
    for what in (name for name in _HEADLINES if name in problems):
        # When a hold ends is said once, in `until`.
        detail = re.sub(r"^on hold for \d+ s after", "on hold after", problems[what])
        hold_until = health["exchange"]["hold_until"] if what == "exchange" else None
        until = hold_until and f"{hold_until[:19]}Z"
        return _trouble(status, _HEADLINES[what], detail, since.get(what), until)
    if failing := _failing(health):
        return failing
    for what, reason in problems.items():
        return _trouble(status, f"{what}: {reason}", "", since.get(what))
    if status == "starting":
        return _trouble(status, "The service is starting", "its first fill is not complete")
    return _trouble(status, "Data is missing", _lacking(health))


def _failing(health: dict[str, Any]) -> Trouble | None:
    """The reason that most of the failing reads have."""
    parts = _parts(health)
    reasons = Counter(reason for part in parts.values() for reason in part["failing"].values())
    if not reasons:
        return None
    [(reason, count)] = reasons.most_common(1)
    since = [
        part.get("failing_since", {}).get(symbol)
        for part in parts.values()
        for symbol, why in part["failing"].items()
        if why == reason
    ]
    whole = reasons.total() >= health["symbols"] * len(parts)
    where = ", ".join(name for name, part in parts.items() if reason in part["failing"].values())
    text = "No read succeeds" if whole else _count(reasons.total())
    detail = _NO_JSON.sub("the exchange answers with a page of HTML: ", reason)
    if len(reasons) > 1:
        detail = f"{count} of {where}: {detail}"
    elif not whole:
        detail = f"{where}: {detail}"
    return _trouble(health["status"], text, detail, min(filter(None, since), default=None))


def _count(failing: int) -> str:
    return "1 read fails" if failing == 1 else f"{failing} reads fail"


def _lacking(health: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}: {part['fresh']} of {part['expected']} fresh"
        for name, part in _parts(health).items()
        if part["fresh"] < part["expected"]
    )


def _parts(health: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"prices": health["prices"], **health["timeframes"]}


def _trouble(
    status: str, text: str, detail: str, since: str | None = None, until: str | None = None
) -> Trouble:
    return {"status": status, "text": text, "detail": detail, "since": since, "until": until}
