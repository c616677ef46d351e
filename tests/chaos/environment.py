"""One database number of Redis with all that belongs to it: services and those who check them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import redis_log
from demo.exchange import Exchange
from tests.chaos.checker import Checker, Reader
from tests.chaos.fleet import SETTINGS, Fleet
from tests.chaos.judges import Verdicts, judge_heirs, judge_holds, judge_weight
from tests.chaos.record import Record
from tests.chaos.transactions import TransactionJudge
from tests.support import Line, RedisServer


class Environment:
    """Its services reach Redis over `line`; those who check them read it directly.

    Each environment has an exchange of its own, that is an address of its own: a hold is noted in
    the database of whom it was told to, so others on the same address could not know of it.
    """

    def __init__(
        self,
        db: int,
        symbols: Sequence[str],
        server: RedisServer,
        line: Line,
        folder: Path,
        verdicts: Verdicts,
    ) -> None:
        self.db, self.symbols, self._verdicts = db, symbols, verdicts
        url = f"redis://127.0.0.1:{server.port}/{db}"
        # With latency, requests of one service are in flight when a second one takes over.
        self.exchange = Exchange(symbols, latency_ms=10, jitter_ms=5).start()
        self.record = record = Record()
        self.fleet = Fleet(folder, line.url(db), db, symbols, self.exchange, record, verdicts)
        self.checker = Checker(
            url,
            self.exchange,
            record,
            verdicts,
            symbols,
            SETTINGS.timeframes,
            SETTINGS.candle_limit,
            self.fleet.pids,
        )
        names = [timeframe.name for timeframe in SETTINGS.timeframes]
        self.judge = TransactionJudge(
            verdicts,
            names,
            redis_log.DEFAULT_KEY,
            lambda at: record.was_on("redis full", at),
            db=db,
        )
        self.reader = Reader(url, symbols, names, verdicts.readers)

    @property
    def error(self) -> Exception | None:
        """Why those who check failed themselves."""
        return self.checker.error or self.reader.error

    def start(self) -> None:
        """Start those who check."""
        self.checker.start()
        self.reader.start()

    def stop(self) -> None:
        self.checker.stop()
        self.reader.stop()

    def judge_run(self) -> None:
        """Judge what can be judged once all has ended."""
        verdicts, asked = self._verdicts, self.record.asked()
        self.checker.judge_lives()
        judge_holds(verdicts.holds, asked, self.record.woken_at)
        judge_heirs(verdicts.heirs, asked, self.record.woken_at, self.record.hides)
        judge_weight(verdicts.weight, asked)
        self.fleet.judge_logs()

    def end(self) -> None:
        """End the services, if they still run, and the exchange."""
        self.fleet.end()
        self.exchange.stop()
