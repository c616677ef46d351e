"""Judges the transactions of the services, as MONITOR shows them."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.chaos.judges import Verdicts


def database(line: str) -> int:
    """The number of the database in which the command in a line of MONITOR was executed."""
    return int(line.partition("[")[2].split()[0])


class TransactionJudge:
    """Takes all commands of database `db` in the order in which Redis executed them."""

    def __init__(
        self,
        verdicts: Verdicts,
        timeframes: Iterable[str],
        log_key: str,
        is_full: Callable[[float], bool] = lambda _: False,
        db: int = 0,
    ) -> None:
        self._verdicts, self._timeframes, self._log_key = verdicts, set(timeframes), log_key
        self._is_full, self._db = is_full, db
        self._open: dict[str, list[list[str]]] = {}  # by client: its transaction so far
        self.missed()

    def missed(self) -> None:
        """Commands may have been missed: forget the state from before."""
        self._open.clear()
        self._set: dict[str, set[str]] = defaultdict(set)  # by timeframe: written since published
        self._since_all: set[str] | None = None  # published since the last "all"; None: unknown

    def feed(self, line: str) -> None:
        """Take in one line of MONITOR."""
        client = line.partition("]")[0].rpartition(" ")[2]
        words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]
        name = words[0].upper() if words else ""
        if name == "MULTI":
            self._open[client] = []
        elif name == "EXEC":
            self.judge(self._open.pop(client, []), float(line.split()[0]))
        elif client in self._open:
            self._open[client].append(words)

    def judge(self, commands: Sequence[Sequence[str]], at: float = 0.0) -> None:
        """Judge one transaction that was executed at `at` (epoch seconds).

        A full Redis takes a publish but no log entry: then the publish goes without one.
        """
        done: Counter[tuple[str, str]] = Counter()
        said: Counter[tuple[str, str]] = Counter()
        published: set[str] = set()
        for name, *words in commands:
            match name.upper():
                case "SET":
                    done["cache_write", words[0]] += 1
                    _, _, symbol, *timeframe = words[0].split(":")
                    if timeframe:
                        self._set[timeframe[0]].add(symbol)
                        self._verdicts.publishes.check(
                            timeframe[0] not in published, f"{words[0]} comes after it"
                        )
                case "PUBLISH":
                    done["publish", words[0]] += 1
                    update = json.loads(words[1])
                    published.add(update.get("timeframe", "all"))
                    self._judge_publish(words[0].split(":")[-1], update)
                case "XADD" if words[0] == self._log_key:
                    fields = words[words.index("*") + 1 :]
                    entry = dict(zip(fields[::2], fields[1::2], strict=True))
                    said[entry["type"], entry["channel"]] += entry["type"] != "error"
        log_refused = not said and self._is_full(at) and {type_ for type_, _ in done} == {"publish"}
        if (done or said) and not log_refused:
            self._verdicts.log.check(
                done == +said, f"done {dict(done - said)}, said {dict(said - done)}"
            )

    def _judge_publish(self, name: str, update: dict[str, Any]) -> None:
        said = update.get("db")
        self._verdicts.payloads.check(said == self._db, f"{name} of {self._db} says {said}")
        publishes = self._verdicts.publishes
        if name != "all":
            unwritten = set(update["symbols"]) - self._set[name]
            publishes.check(not unwritten, f"{name}: {sorted(unwritten)} not written")
            self._set[name].clear()
            if self._since_all is not None:
                self._since_all.add(name)
            return
        if self._since_all is not None:
            lacks = self._timeframes - self._since_all
            publishes.check(not lacks, f"all, without {sorted(lacks)}")
        self._since_all = set()
