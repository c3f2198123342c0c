"""Even numbers of connections in all workers.

The kernel picks a worker for a connection by a hash (SO_REUSEPORT), or whichever accepts first (one
socket). So a worker that has clearly more connections than its share passes a connection on as soon
as it has accepted it, to the one with the fewest (`workers.inbox`). HAProxy balances the accept
queues of its threads in this way (`listener_accept`).

Each worker publishes its number of connections and what it listens at. A connection is passed only
between workers of different slots that listen at the same addresses by the same options, so a
reload, a drain and another generation need no protocol, and never to one without a heartbeat.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from hermes_lb.proxy.ports import AcceptLimit
from hermes_lb.workers.inbox import DIGEST_SIZE
from hermes_lb.workers.shared_memory import CONNECTIONS, HEARTBEAT, SERVES, SLOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hermes_lb.listen import Frontend
    from hermes_lb.listen.listener import Listener
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import Entrance
    from hermes_lb.workers.inbox import Inbox
    from hermes_lb.workers.shared_memory import SharedMemory

# A worker may have this much more than its share: of the share, and connections. 20 % are allowed,
# and counts are a few loop iterations old.
_TOLERANCE = 0.1
_SLACK = 1.0

# Connections passed in a second by one worker, over time and at once. To pass one takes as much CPU
# as to accept one. Short connections, whose numbers are even again a moment later, must not pay
# that thousands of times a second; a fleet of clients that reconnects may.
_PER_SECOND = 10.0
_BURST = 1000.0

# Seconds between two looks for workers to pass connections to.
_LOOK_EVERY = 0.1
# Seconds. A worker is alive while its heartbeat, which it writes each 0.2 s, is not older.
_ALIVE = 1.0

# Seconds after which an accepted connection has been set up, or never will be.
_SETTLED = 1.0

# Connections taken over in a loop iteration, as many as are accepted.
_AT_ONCE = 8
# Seconds, if there is no descriptor left for one; it waits in the inbox.
_TRY_AGAIN = 1.0


def receiver(mine: int, others: Sequence[float]) -> int | None:
    """Which of `others` should serve the next connection of a worker that has `mine`.

    None: that worker itself.
    """
    if not others:
        return None
    share = (mine + 1 + sum(others)) / (len(others) + 1)
    if mine + 1 <= share + max(_SLACK, share * _TOLERANCE):
        return None
    return others.index(min(others))


class ConnectionSpread(AcceptLimit):
    """Worker `number`'s part. It takes the place of the context's limit, which it keeps to.

    `inboxes`: of all slots. The worker reads those of its slot, and of slots that an upgrade has
    removed: each `slots`-th.
    """

    def __init__(
        self,
        context: Context,
        memory: SharedMemory,
        number: int,
        inboxes: Sequence[Inbox],
        slot: int,
        slots: int,
    ) -> None:
        self._limit = context.live.gate
        self._clients = context.live.clients
        self._loop = context.loop
        self._clock = context.clock
        self._tasks = context.tasks
        self._mine = memory.regions[number].gauges
        self._regions = [region.gauges for region in memory.regions]
        self._inboxes = inboxes
        self._own = inboxes[slot::slots]
        self._slot = slot
        self._has_left = False
        self._listeners: dict[bytes, Listener] = {}
        self._former: dict[bytes, Listener] = {}  # before the last reload
        self._digests: dict[object, bytes] = {}
        # Accepted or received, and not in `_clients` yet. One that fails on the way stays in it
        # until no connection has come for a second.
        self._arriving = 0
        self._waiting = 0  # in its own inboxes, at `_now`
        self._now = 0.0
        self._others: list[memoryview[float]] = []
        self._look_after = 0.0
        self._looked_at = self._clock()
        self._budget = _BURST
        self._mine[SLOT] = slot
        context.live.gate = self
        for inbox in self._own:
            self._loop.add_reader(inbox.fileno(), self._receive, inbox)

    def __repr__(self) -> str:
        return f"<ConnectionSpread of slot {self._slot}>"

    def set_listeners(self, frontends: Iterable[Frontend]) -> None:
        """Pass on and take over connections of the present listeners of these."""
        if self._has_left:
            return
        self._former = self._listeners
        self._listeners = {
            _digest(frontend.name, listener): listener
            for frontend in frontends
            for listener in frontend.listeners
        }
        self._digests = {listener: digest for digest, listener in self._listeners.items()}
        self._mine[SERVES] = _fingerprint(self._listeners)
        self._mine[CONNECTIONS] = len(self._clients) + self._arriving
        self._look_after = 0.0

    def leave(self) -> None:
        """Neither pass on nor take over any more; what has been passed here is taken. Idempotent.

        What another worker is passing at this moment is read by the next one of the slot.
        """
        if self._has_left:
            return
        self._has_left = True
        self._mine[SERVES] = 0.0
        self._digests = {}
        for inbox in self._own:
            self._loop.remove_reader(inbox.fileno())
            with suppress(OSError):  # no descriptors: the next one of the slot has them
                while self._take(inbox):
                    pass

    # `AcceptLimit`.

    def guard(self, frontend: Entrance) -> None:
        self._limit.guard(frontend)

    def forget(self, frontend: Entrance) -> None:
        self._limit.forget(frontend)

    def reconfigure(self, most: int) -> None:
        self._limit.reconfigure(most)

    def acquire(self) -> None:
        self._limit.acquire()
        if self._arriving:
            self._arriving -= 1
        self._mine[CONNECTIONS] = len(self._clients) + self._arriving

    def release(self) -> None:
        self._limit.release()
        self._mine[CONNECTIONS] = len(self._clients) + self._arriving

    def taker(self, listener: object) -> Callable[[int], bool] | None:
        now = self._clock()
        if now >= self._look_after:
            self._look(now)
        if self._budget >= 1.0 and self._others:
            # None: the worker drains, or a reload is about to announce this listener.
            digest = self._digests.get(listener)
            if digest is not None and (inbox := self._receiver(now)) is not None:
                self._budget -= 1.0
                return partial(inbox.send, digest)
        self._arriving += 1
        self._mine[CONNECTIONS] = len(self._clients) + self._arriving
        return None

    # Passing on.

    def _look(self, now: float) -> None:
        """Look for the workers that may take connections, and renew the budget."""
        since = now - self._looked_at
        self._looked_at = now
        self._look_after = now + _LOOK_EVERY
        self._budget = min(_BURST, self._budget + since * _PER_SECOND)
        if since > _SETTLED:
            self._arriving = 0
        self._others = [
            gauges
            for gauges in self._regions
            if gauges[SERVES] == self._mine[SERVES]
            and gauges[SLOT] != self._slot
            and gauges[SLOT] < len(self._inboxes)
            and now - gauges[HEARTBEAT] <= _ALIVE
        ]

    def _receiver(self, now: float) -> Inbox | None:
        """The inbox for the next connection; None: this worker serves it."""
        if now != self._now:  # once in an iteration of uvloop
            self._now = now
            self._waiting = sum([inbox.waiting() for inbox in self._own])
        mine = len(self._clients) + self._arriving + self._waiting
        counts = [gauges[CONNECTIONS] for gauges in self._others]
        place = receiver(mine, counts)
        looked: set[int] = set()
        while place is not None and place not in looked:
            looked.add(place)
            counts[place] += self._inbox(self._others[place]).waiting()
            place = receiver(mine, counts)
        if place is None or self._others[place][SERVES] != self._mine[SERVES]:
            return None  # or it has ended, or begun to drain, since the last look
        return self._inbox(self._others[place])

    def _inbox(self, gauges: memoryview[float]) -> Inbox:
        return self._inboxes[int(gauges[SLOT])]

    # Taking over.

    def _receive(self, inbox: Inbox) -> None:
        try:
            for _ in range(_AT_ONCE):
                if not self._take(inbox):
                    return
        except OSError:  # no descriptors
            self._loop.remove_reader(inbox.fileno())
            self._loop.call_later(_TRY_AGAIN, self._receive_again, inbox)

    def _receive_again(self, inbox: Inbox) -> None:
        if not self._has_left:
            self._loop.add_reader(inbox.fileno(), self._receive, inbox)

    def _take(self, inbox: Inbox) -> bool:
        """Take one connection over -> whether there was one. Raises OSError: no descriptors."""
        found = inbox.receive()
        if found is None:
            return False
        digest, sock = found
        listener = self._listeners.get(digest) or self._former.get(digest)
        if listener is None:  # two reloads since it was passed
            sock.close()
        else:
            self._arriving += 1
            self._waiting = max(0, self._waiting - 1)
            self._mine[CONNECTIONS] = len(self._clients) + self._arriving
            self._tasks.spawn(listener.adopt(sock), name="take a connection over")
        return True


def _digest(frontend: str, listener: Listener) -> bytes:
    """The same in all workers, for the same address with the same options."""
    about = f"{frontend}\0{listener.bind.model_dump_json()}"
    return blake2b(about.encode(), digest_size=DIGEST_SIZE).digest()


def _fingerprint(digests: Iterable[bytes]) -> float:
    """What a worker listens at; above 0.0, and exact as a float."""
    digest = blake2b(b"".join(sorted(digests)), digest_size=6).digest()
    return float(int.from_bytes(digest) | 1)
