"""Sessions that are live, with their servers: a bounded table of this process.

A session lives while it has a request in flight, and for `idle` seconds after the beginning of its
last one. There are `most` at any time, of 320 bytes each. Keys are those of clients, who may
invent them: a fifth of the table is for sessions of a single request, the oldest of which makes
room for a new one, so that a flood of keys that do not recur displaces no session with a second
turn (segmented LRU: Karedla, Love, Wherry, 1994).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from hermes_lb.backends import Pool, Server

# Expired sessions that a call drops: more than the one that it adds.
_DROPS: Final = 8
_NEW_PART: Final = 5  # a fifth of the table is for new ones


class Session:
    """One session, which is also the ticket of each of its leases (`pool.Ticket`)."""

    __slots__ = ("key", "moved_at", "running", "seen", "server")

    def __init__(self, key: int, server: Server, now: float) -> None:
        self.key = key
        self.server = server
        self.seen = now  # when its last request began
        self.moved_at = now  # when it came to this server
        self.running = 0  # requests in flight

    def ended(self, output: int) -> None:
        self.running -= 1

    def may_stay(self, pool: Pool, tried: Collection[Server], now: float) -> bool:
        """Whether its server is a candidate. A backup is one only while no primary serves."""
        server = self.server
        return (
            server.can_take(now)
            and server.weight > 0
            and server not in tried
            and (not server.config.backup or server in pool.candidates(tried, now))
        )


class LiveSessions:
    """By `hash` of their keys, which is secret: no client can choose keys that collide.

    `changed(server, change)` is called when a server has a session more, or one less (-1).
    """

    __slots__ = ("_changed", "_idle", "_most", "_new", "_returning")

    def __init__(self, most: int, idle: float, changed: Callable[[Server, int], None]) -> None:
        self._most = most
        self._idle = idle
        self._changed = changed
        # Both in the order of `seen`.
        self._new: OrderedDict[int, Session] = OrderedDict()
        self._returning: OrderedDict[int, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._new) + len(self._returning)

    def find(self, key: bytes, now: float) -> Session | None:
        """The session with this key, if it is live."""
        number = hash(key)
        session = self._returning.get(number)
        if session is None:
            session = self._new.get(number)
        if session is None or session.running or now - session.seen < self._idle:
            return session
        return None

    def started(self, key: bytes, server: Server, now: float) -> Session:
        """A request of the session begins at `server`, which is the session's then."""
        number = hash(key)
        session = self._returning.get(number)
        if session is not None:
            self._returning.move_to_end(number)
        else:
            session = self._new.pop(number, None)
            if session is None:
                self._new[number] = session = Session(number, server, now)
                self._changed(server, 1)
            else:
                self._returning[number] = session
        if session.server is not server:
            self._changed(session.server, -1)
            self._changed(server, 1)
            session.server = server
            session.moved_at = now
        session.seen = now
        session.running += 1
        self._make_room(session, now)
        return session

    def _make_room(self, started: Session, now: float) -> None:
        for sessions in (self._new, self._returning):
            for _ in range(_DROPS):
                if not sessions:
                    break
                oldest = next(iter(sessions.values()))
                if now - oldest.seen < self._idle:
                    break
                if oldest.running:
                    oldest.seen = now
                    sessions.move_to_end(oldest.key)
                else:
                    self._drop(sessions)
        if len(self) > self._most:
            # Behind those that run and were moved just now, so that it is not the one that goes.
            (self._new if started.key in self._new else self._returning).move_to_end(started.key)
            is_flood = len(self._new) * _NEW_PART > self._most or not self._returning
            self._drop(self._new if is_flood else self._returning)

    def _drop(self, sessions: OrderedDict[int, Session]) -> None:
        _, session = sessions.popitem(last=False)
        self._changed(session.server, -1)
