"""`python -m demo.record`: asks the real exchange a few harmless questions and keeps the answers.

All of them together weigh less than 100, of the 6000 a minute that an address has. What they say
is compared with what the project believes (`demo.picture`), and tests/service/test_recorded.py
runs over each folder in tests/recorded/ from then on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from binance_answers import MAX_CANDLES, MAX_TICKER_SYMBOLS, error_of
from demo.picture import REFUSALS, Answer, differing, findings, read_answers
from environment import SettingsError
from settings import DEFAULT_SYMBOLS, EXCHANGE_URL, Settings

RECORDED = Path(__file__).parent.parent / "tests" / "recorded"
USER_AGENT = "coinex-market-data-record"
TIMEOUT_S = 10.0
PAUSE_S = 1.0
# Whoever has them may act as this client.
SECRET_HEADERS = ("set-cookie",)

Ask = Callable[..., Answer]


class Refused(Exception):
    """The exchange wants no more questions."""


class Recorder:
    """Asks the exchange at `url` one question after another, and writes each answer to `folder`,
    which is made for the first one."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._asked = 0

    def ask(self, name: str, path: str, **params: str | int) -> Answer:
        """The answer to GET /api/v3/`path`. Raises Refused, and RequestException without one."""
        if self._asked:
            time.sleep(PAUSE_S)
        self._asked += 1
        asked_at, path = datetime.now(UTC), f"/api/v3/{path}"
        # Not a Session: it would send cookies back. A redirect would lead to another host.
        response = requests.get(
            self._url + path,
            params=params,
            timeout=TIMEOUT_S,
            headers={"User-Agent": USER_AGENT},
            allow_redirects=False,
        )
        answer = Answer(
            name,
            path,
            {key: str(value) for key, value in params.items()},
            asked_at.timestamp(),
            response.status_code,
            without_secrets(response.headers),
            response.content.decode("utf-8", "replace"),
        )
        self._write(answer)
        print(_line(answer), flush=True)
        if answer.status in REFUSALS:
            raise Refused(error_of(answer.status, answer.body.encode()).reason)
        return answer

    def _write(self, answer: Answer) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(answer.as_record(), indent=1, ensure_ascii=False)
        (self._folder / f"{answer.name}.json").write_text(text + "\n", encoding="utf-8")


def without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in SECRET_HEADERS}


def _line(answer: Answer) -> str:
    weight = "" if answer.used_weight is None else f"used weight {answer.used_weight}"
    size = f"{len(answer.body.encode()):,} bytes"
    return f"{answer.name:<26} HTTP {answer.status} {size:>17}   {weight}".rstrip()


def ask_all(ask: Ask) -> None:
    """Ask each question. The rarer markets are chosen by the answers to the first ones."""
    ask("time", "time")
    ask("exchange-info-btcusdt", "exchangeInfo", symbol="BTCUSDT")
    statuses = _statuses(ask("exchange-info-all", "exchangeInfo"))
    symbols = [symbol for symbol in DEFAULT_SYMBOLS.split(",") if symbol in statuses]
    symbols = symbols[:MAX_TICKER_SYMBOLS] or ["BTCUSDT", "ETHUSDT"]
    ask("ticker-btcusdt", "ticker/24hr", symbol="BTCUSDT")
    in_json = json.dumps(symbols, separators=(",", ":"))
    thinnest = _thinnest(ask("tickers-20", "ticker/24hr", symbols=in_json)) or symbols[-1]
    for interval in ("5m", "1h", "4h"):
        ask(f"klines-btcusdt-{interval}", "klines", symbol="BTCUSDT", interval=interval, limit=5)
    # The same again: by how much the used weight grows is what one weighs.
    ask("klines-btcusdt-4h-again", "klines", symbol="BTCUSDT", interval="4h", limit=5)
    ask("klines-btcusdt-1h-1000", "klines", symbol="BTCUSDT", interval="1h", limit=MAX_CANDLES)
    ask("klines-thin-5m", "klines", symbol=thinnest, interval="5m", limit=100)
    ask("klines-unknown-symbol", "klines", symbol="NOSUCHUSDT", interval="1h", limit=5)
    ask("klines-invalid-interval", "klines", symbol="BTCUSDT", interval="7m", limit=5)
    halted = [symbol for symbol, status in statuses.items() if status == "BREAK"]
    if not halted:
        print("no listed symbol has the status BREAK")
        return
    ask("ticker-break", "ticker/24hr", symbol=halted[0])
    ask("klines-break", "klines", symbol=halted[0], interval="1h", limit=5)


def _statuses(info: Answer) -> dict[str, str]:
    """The status of each symbol, as far as the answer can be understood."""
    try:
        return {entry["symbol"]: entry["status"] for entry in info.json["symbols"]}
    except (KeyError, TypeError, ValueError):
        return {}


def _thinnest(tickers: Answer) -> str:
    """The symbol with the fewest trades; "" if the answer cannot be understood."""
    try:
        return str(min(tickers.json, key=lambda ticker: ticker["count"])["symbol"])
    except (KeyError, TypeError, ValueError):
        return ""


def print_picture(folder: Path) -> None:
    """A table of what the answers in `folder` say that the project does not believe."""
    found = findings(read_answers(folder))
    rows = differing(found)
    print(f"\n{len(found) - len(rows)} of {len(found)} points are as the project believes.")
    if not rows:
        return
    cells = [("", "differs", "believed", "recorded")]
    cells += [("!" if row.relied_on else "", row.what, row.believed, row.recorded) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if any(row.relied_on for row in rows):
        print("(! = the service relies on it, and tests fail until one of them is changed)")
    print()
    for row in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def record(url: str, folder: Path) -> int:
    """Record into `folder`, and say what is new. Returns the exit code."""
    problem = ""
    try:
        ask_all(Recorder(url, folder).ask)
    except Refused as error:
        problem = f"stopped, because the exchange refused: {error}"
    except requests.RequestException as error:
        problem = f"cannot reach {urlsplit(url).netloc}: {_root_reason(error)}"
    except OSError as error:
        problem = f"cannot write to {folder}: {error.strerror or error}"
    except KeyboardInterrupt:
        problem = "interrupted"
    if folder.is_dir() and any(folder.glob("*.json")):
        print_picture(folder)
        print(f"\nThe answers are in {folder}/")
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


def _root_reason(error: BaseException) -> Any:
    """The operating system's own words; the libraries wrap them several times."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_S:.0f} s"
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or error


def main(arguments: list[str] | None = None) -> int:
    today = datetime.now(UTC).date().isoformat()
    parser = argparse.ArgumentParser(
        prog="python -m demo.record",
        description="Ask the real exchange about 15 harmless questions, one after another, and "
        "keep each answer as a JSON file. They weigh less than 100 together. At the end: what "
        "differs from what this project believes of the exchange.",
        epilog="It needs no account, sends no key, and stops at once when the exchange refuses "
        "(HTTP 403, 418, 429, 451). Look through the files before you commit them; "
        "tests/recorded/README.md says what is in them.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=RECORDED / today,
        metavar="FOLDER",
        help=f"a new or empty one (default: tests/recorded/{today})",
    )
    parser.add_argument(
        "--url", default=EXCHANGE_URL, help="%(default)s, or a simulation on a loopback address"
    )
    args = parser.parse_args(arguments)
    try:
        url = Settings.from_env({"BINANCE_BASE_URL": args.url}).binance_base_url
    except SettingsError:
        parser.error(f"--url must be {EXCHANGE_URL} or a loopback address")
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        parser.error(f"{args.folder} exists and is not an empty folder: name another")
    return record(url, args.folder)


if __name__ == "__main__":
    sys.exit(main())
