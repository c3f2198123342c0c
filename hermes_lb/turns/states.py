"""The states of a turn: the only place that defines its transitions.

All are made by scripts in the store, by compare-and-set on the state and the owner's nonce. A test
compares this table with the scripts.

    waiting     provably not sent to a server
    running     may have been sent; written before its first byte leaves
    cancelling  running, and its cancellation was asked for
    done        all of the response is in the journal
    lost        its outcome is unknown
    cancelled   it ended because a client wanted it
    released    it never ran, or its answer is not kept; for a minute, for those that joined it
"""

from __future__ import annotations

from typing import Final

WAITING: Final = 0
RUNNING: Final = 1
CANCELLING: Final = 2
DONE: Final = 3
LOST: Final = 4
CANCELLED: Final = 5
RELEASED: Final = 6

NAMES: Final = ("waiting", "running", "cancelling", "done", "lost", "cancelled", "released")

FOLLOWED_BY: Final = {
    WAITING: (RUNNING, CANCELLED, RELEASED),
    RUNNING: (CANCELLING, DONE, LOST, RELEASED),
    CANCELLING: (CANCELLED, DONE, LOST),
    DONE: (),
    LOST: (),
    CANCELLED: (),
    RELEASED: (),
}

#: Its response, or its cut, is final.
ENDED: Final = frozenset((DONE, LOST, CANCELLED, RELEASED))
