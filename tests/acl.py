"""A real server with the users of docs/users.acl, and what their programs send it."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

import redis

from embedded_redis import executable
from redis_log import connect
from tests.support import ROOT, RedisServer, until

USERS = [
    line for line in (ROOT / "docs/users.acl").read_text().splitlines() if line.startswith("user ")
]
Command = tuple[str, ...]


class GuardedRedis(RedisServer):
    """Has the users of the file, loaded as its operator would; `client` is the default user."""

    def __init__(self, folder: Path) -> None:
        version = subprocess.run([executable(), "--version"], capture_output=True, check=True)
        text = "\n".join(USERS)
        if b"Redis server v=7.0" in version.stdout:  # which docs/operations.md speaks of
            text = text.replace(" +client|setinfo", "")
        self._file = folder / "users.acl"
        self._file.write_text(text)
        self.rules = {line.split()[1]: line.split(maxsplit=2)[2] for line in text.splitlines()}
        super().__init__()

    def start(self) -> None:
        self.client = connect(self.url_of("default"))
        self.process = subprocess.Popen(
            [
                executable(),
                *("--port", str(self.port), "--bind", "127.0.0.1", *self.OPTIONS),
                *("--aclfile", self._file),
            ],
            stdout=subprocess.DEVNULL,
        )
        until(self.answers, 10, what="the server answers")

    def url_of(self, user: str) -> str:
        [password] = re.findall(r">(\S+)", self.rules[user])
        return self.url.replace("//", f"//{user}:{password}@")

    def denied(self) -> list[str]:
        """Who was refused what, since the start."""
        entries: Any = self.client.acl_log()
        return [f"{each['username']} {each['context']} {each['object']}" for each in entries]

    def needless(self, user: str, sent: set[Command]) -> list[str]:
        """The rules of `user` without which, or with only half of which, it could still have sent
        all that."""
        found = []
        rules = self.rules[user]
        for rule in re.finditer(r"[+&~%][^\s()]+", rules):
            halves = [f"%R{rule[0]}", f"%W{rule[0]}"] if rule[0].startswith("~") else []
            for less in ["", *halves]:
                changed = rules[: rule.start()] + less + rules[rule.end() :]
                if self._may_send(user, changed, sent):
                    found.append(f"{rule[0]} for {less or 'nothing'}")
        assert self._may_send(user, rules, sent)
        return found

    def _may_send(self, user: str, rules: str, commands: set[Command]) -> bool:
        self.client.execute_command("ACL", "SETUSER", user, "reset", *rules.split())
        pipeline: Any = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command("ACL", "DRYRUN", user, *command)
        return set(pipeline.execute()) == {"OK"}


class Observer:
    """Gathers the commands that all but the default user send, long arguments cut off."""

    def __init__(self, server: GuardedRedis) -> None:
        self._server = server
        self._client = redis.Redis.from_url(
            server.url_of("default"), socket_timeout=None, decode_responses=True, protocol=2
        )
        self._seen: list[tuple[str, Command]] = []  # of which connection
        self._monitor = self._client.monitor()
        self._monitor.__enter__()
        self._thread = threading.Thread(target=self._gather, daemon=True)
        self._thread.start()

    def _gather(self) -> None:
        command: Command = ()
        while command != ("ECHO", "the end"):
            line = str(self._monitor.connection.read_response())
            sender, _, text = line.partition("[")[2].partition("] ")
            command = tuple(word[:60] for word in shlex.split(text))
            self._seen.append((sender.split()[-1], command))

    def commands(self) -> set[Command]:
        """Ends it."""
        self._server.client.echo("the end")
        self._thread.join()
        self._monitor.__exit__()
        connected: Any = self._server.client.client_list()
        own = {each["addr"] for each in connected if each["user"] == "default"}
        own.add(self._seen[-1][0])
        return {command for sender, command in self._seen if sender not in own}
