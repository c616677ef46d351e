"""Who may write: of all programs that share a key in Redis one leads, the others stand by.

The lease is that key: it holds the token of the leader, who renews it before its TTL ends. Beside
it is the term, a number that only a change of leader touches. A transaction of the leader watches
the term: if another one took over while this program was stopped (SIGSTOP, a laptop's lid), Redis
voids the transaction. A renewal touches only the lease, so it never voids the leader's own.

Knows nothing of candles: the service and the paper trader use it.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

import redis

from journal import event

# KEYS: lease, term. ARGV: own token, TTL in ms, own last term. Returns the leader's token, the term
# now, and the term before; "" where there is none. Whoever takes the lease again after it expired,
# with nobody in between, goes on in the same term. Terms are of Redis' clock in µs, so that one
# that was used before Redis lost its data is not used again.
_CLAIM = """
    local leader, term = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
    if leader and leader ~= ARGV[1] then return {leader, term or '', term or ''} end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    if term and term == ARGV[3] then return {ARGV[1], term, term} end
    local now = redis.call('TIME')
    local next_term = math.max(now[1] * 1000000 + now[2], (tonumber(term) or 0) + 1)
    redis.call('SET', KEYS[2], string.format('%.0f', next_term))
    return {ARGV[1], string.format('%.0f', next_term), term or ''}"""
# KEYS: lease. ARGV: own token.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


def _nothing(*_: object) -> None:
    pass


class Lease:
    """One program's view of the lease `key`, which it holds for `ttl_s` seconds at a time.

    `on_passed()` is called when another program may have led since this one did: what it remembers
    may be outdated. It is called before the new leader is visible, so nothing outdated is written
    in the new term. `on_change()` is called after that.
    """

    def __init__(
        self,
        client: redis.Redis,
        key: str,
        ttl_s: float,
        *,
        on_passed: Callable[[], None] = _nothing,
        on_change: Callable[[], None] = _nothing,
    ) -> None:
        self.token = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._client, self._key, self._term_key = client, key, f"{key}:term"
        self._ttl_ms = int(ttl_s * 1000)
        self._on_passed, self._on_change = on_passed, on_change
        # Guards the fields below: the main thread claims, and so does a loop whose transaction was
        # voided; all threads look.
        self._lock = threading.Lock()
        self._leader = self._term = ""  # as far as it is known
        self._released = False

    @property
    def leader(self) -> str:
        """The token of who leads; "" while that is not known."""
        with self._lock:
            return self._leader

    def stands_by(self) -> bool:
        """Whether another program leads. Where that is not known, this one may work."""
        return self.other_leader() != ""

    def other_leader(self) -> str:
        """The token of another program that leads, or ""."""
        leader = self.leader
        return "" if leader == self.token else leader

    def fence(self) -> tuple[str, str]:
        """A key and the value that it has while nobody else has taken over."""
        with self._lock:
            return self._term_key, self._term

    def claim(self) -> None:
        """Take the lease or renew it, if nobody else has it.

        Raises redis.RedisError; then nothing changes: whoever led goes on, in memory.
        """
        with self._lock:
            if self._released:
                return
            leader_before, own_term = self._leader, self._term
        keys_and_arguments = (self._key, self._term_key, self.token, self._ttl_ms, own_term)
        answer: Any = self._client.eval(_CLAIM, 2, *keys_and_arguments)
        leader, term, term_before = answer
        changed = leader != leader_before
        first_claim = not leader_before and leader == self.token
        # With no term before, Redis has lost its data: nobody can have led since.
        overtaken = bool(own_term) and term_before not in ("", own_term)
        if (changed and not first_claim) or overtaken:
            self._on_passed()
        with self._lock:
            self._leader, self._term = leader, term if leader == self.token else ""
        if changed:
            role = "leader" if leader == self.token else "standby"
            event(logging.INFO, role, leader=leader)
            self._on_change()

    def release(self) -> None:
        """Give the lease back, for another program to take at once, and never claim it again."""
        with self._lock:
            self._released = True
        self._client.eval(_RELEASE, 1, self._key, self.token)
