"""The phases of an exchange: the only place that defines transitions and deadlines.

The rules:

1. An exchange is in exactly one phase. `Exchange.enter` alone changes it, and with it the deadline.
2. A transition that the table does not list is a bug: `enter` raises, and changes nothing.
3. A deadline has one of four kinds. ABSOLUTE: the timeout counts from `enter`. IDLE: traffic
   restarts it; the sweep does that, so no clock is read per chunk. OWN: a timer or a task of the
   phase's own ends it, or the limit that `enter` was given. NONE: the phase ends before its event
   has been processed.
4. `waits_for` names the side whose fault an expiry is. A phase that waits for a side to read has
   not expired while its socket takes bytes, however slowly (`has_progress`; nginx's `send_timeout`
   and `proxy_send_timeout` run between two writes).
5. Traffic of a phase that is not IDLE moves no deadline, and none of it outlives its phase.

The letters are HAProxy's, for the log (configuration.txt, section 8.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from hermes_lb.proxy.timeouts import PlainTimeouts

# Plain integers: an Enum costs three times as much to compare, and this is read per chunk.
ROUTE: Final = 0  # the head has come; no backend yet
READ: Final = 1  # the request's body, which may hold its session key, is due from the client
QUEUE: Final = 2  # every server is full
START: Final = 3  # no server is up, and the first one is due
LOOKUP: Final = 4  # the shared session table is asked
CLAIM: Final = 5  # the store of turns is asked, or the head of a turn that is followed is due
SESSION: Final = 6  # another turn of its session runs
DIAL: Final = 7
PAUSE: Final = 8  # before another attempt: turn-around, or the pause of a resume
SEND: Final = 9  # the rest of the request's body is due from the client
BLOCKED: Final = 10  # the server does not read the request's body
AWAIT: Final = 11  # the response head, or a 100, is due from the server
HELD: Final = 12  # a response head waits until its session or its turn is stored
DATA: Final = 13  # the response's body comes
DATA_SLOW: Final = 14  # the client does not read it
FLUSH: Final = 15  # the server is done, and the client still reads
TUNNEL: Final = 16  # after a 101
END: Final = 17

NONE: Final = 0
ABSOLUTE: Final = 1
IDLE: Final = 2
OWN: Final = 3

# One more, or no more. A turn stores its server first.
_ATTEMPT: Final = (CLAIM, QUEUE, START, DIAL, AWAIT, SEND, BLOCKED, PAUSE, END)
_RESPONSE: Final = (HELD, DATA, DATA_SLOW, FLUSH, TUNNEL)
_REQUEST: Final = (SEND, BLOCKED, AWAIT)
# Of a turn: its claim, its place in its session's queue; then as without one.
_TURN: Final = (SESSION, READ, LOOKUP, *_ATTEMPT)


class Phase(NamedTuple):
    """One row. `timeout`: of `PlainTimeouts`; "" for a phase without a configured limit."""

    number: int
    name: str
    letter: str
    timeout: str
    kind: int
    waits_for: str
    has_progress: bool
    followed_by: tuple[int, ...]


TABLE: Final = (
    Phase(ROUTE, "ROUTE", "R", "", NONE, "", False, (READ, LOOKUP, *_ATTEMPT)),
    Phase(READ, "READ", "R", "client", IDLE, "client", False, (LOOKUP, *_ATTEMPT)),
    Phase(QUEUE, "QUEUE", "Q", "queue", ABSOLUTE, "us", False, _ATTEMPT),
    Phase(START, "START", "Q", "", OWN, "us", False, _ATTEMPT),
    Phase(LOOKUP, "LOOKUP", "C", "", OWN, "peer", False, _ATTEMPT),
    Phase(CLAIM, "CLAIM", "C", "", OWN, "peer", False, (DATA, DATA_SLOW, *_TURN)),
    Phase(SESSION, "SESSION", "Q", "queue", ABSOLUTE, "us", False, _TURN),
    Phase(DIAL, "DIAL", "C", "connect", ABSOLUTE, "server", False, _ATTEMPT),
    Phase(PAUSE, "PAUSE", "C", "", OWN, "us", False, _ATTEMPT),
    Phase(
        SEND, "SEND", "H", "client", IDLE, "client", False,
        (*_REQUEST, *_RESPONSE, *_ATTEMPT),
    ),
    Phase(
        BLOCKED, "BLOCKED", "H", "server", IDLE, "server", True,
        (*_REQUEST, *_RESPONSE, *_ATTEMPT),
    ),
    Phase(
        AWAIT, "AWAIT", "H", "server", ABSOLUTE, "server", False,
        (*_REQUEST, *_RESPONSE, *_ATTEMPT),
    ),
    Phase(HELD, "HELD", "H", "", OWN, "peer", False, (*_RESPONSE[1:], *_ATTEMPT)),
    Phase(DATA, "DATA", "D", "server", IDLE, "server", False, (DATA_SLOW, FLUSH, *_ATTEMPT)),
    Phase(DATA_SLOW, "DATA_SLOW", "D", "client", IDLE, "client", True, (DATA, FLUSH, *_ATTEMPT)),
    Phase(FLUSH, "FLUSH", "L", "client", ABSOLUTE, "client", True, (END,)),
    Phase(TUNNEL, "TUNNEL", "D", "tunnel", IDLE, "either", True, (END,)),
    Phase(END, "END", "-", "", NONE, "", False, ()),
)  # fmt: skip

# The table in the shapes in which it is read.
NAMES: Final = [row.name for row in TABLE]
LETTERS: Final = [row.letter for row in TABLE]
IS_IDLE: Final = [row.kind == IDLE for row in TABLE]
HAS_PROGRESS: Final = [row.has_progress for row in TABLE]
#: By phase: the phases that may follow, as bits.
FOLLOWED_BY: Final = [sum({1 << following for following in row.followed_by}) for row in TABLE]


class IllegalTransition(Exception):
    """A phase that must not follow this one: a bug."""

    def __init__(self, present: int, wanted: int) -> None:
        super().__init__(f"{NAMES[wanted]} must not follow {NAMES[present]}")


def limits(timeouts: PlainTimeouts) -> list[float]:
    """Seconds by phase; infinite where no configured timeout applies."""
    return [getattr(timeouts, row.timeout) if row.timeout else float("inf") for row in TABLE]
