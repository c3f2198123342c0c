"""The store's keys, by the two parts of a turn's id.

    lb:{P16}:turn:<id>        hash     the turn's record
    lb:{P16}:key:<digest>     string   the turn that has the Idempotency-Key
    lb:{P16}:ses:<digest>     hash     the session's holder, fence, grant and settle times
    lb:{P16}:que:<digest>     list     its waiters: id, nonce, incarnation
    lb:{P16}:use              hash     turns and bytes of the principal
    lb:{<id>}:ev              stream   the journal
    lb:{<id>}:own             hash     the nonce that may append to it
    lb:{o:<incarnation>}:alive         string   the beats of a process
    lb:{all}:use              hash     turns and bytes of all principals, by incarnation

`P16` is the first 16 characters of the principal's digest, and of its turns' ids: the id alone
gives both slots. All keys of a script lie in one slot.
"""

from __future__ import annotations

import base64
from hashlib import blake2b
from typing import Final, NamedTuple

_PREFIX: Final = 16
_ID: Final = _PREFIX + 26  # characters: 128 bits in base32 are 26

#: Of all principals.
GLOBAL_USE: Final = "lb:{all}:use"


class TurnName(NamedTuple):
    """What names a turn in all of its keys."""

    id: str
    principal: str
    nonce: str
    key: str
    session: str


class TurnKeys(NamedTuple):
    """The keys of control, in the order of the scripts. Without a key or a session the name ends
    with ":", and is not used."""

    turn: str
    key: str
    session: str
    queue: str
    use: str


def control_keys(turn: str, key: str = "", session: str = "") -> TurnKeys:
    slot = f"lb:{{{turn[:_PREFIX]}}}:"
    return TurnKeys(
        f"{slot}turn:{turn}",
        f"{slot}key:{key}",
        f"{slot}ses:{session}",
        f"{slot}que:{session}",
        f"{slot}use",
    )


def key_of(principal: str, key: str) -> str:
    return f"lb:{{{principal[:_PREFIX]}}}:key:{key}"


def alive_key(incarnation: str) -> str:
    return f"lb:{{o:{incarnation}}}:alive"


def incarnation_channel(incarnation: str) -> str:
    """Where a process is notified of grants and cancellations."""
    return f"lb:{{o:{incarnation}}}"


def turn_id(principal: str, nonce: str) -> str:
    """128 bits that only the nonce determines: a repetition of `begin` has the same turn."""
    digest = blake2b(nonce.encode(), digest_size=16).digest()
    return principal[:_PREFIX] + base64.b32encode(digest).decode().rstrip("=").lower()


def turn_key_pattern(prefix: str) -> str:
    """For SCAN: the turns whose ids begin with `prefix`."""
    slot = f"{{{prefix[:_PREFIX]}}}" if len(prefix) >= _PREFIX else f"{{{prefix}*}}"
    return f"lb:{slot}:turn:{prefix}*"


def principal_keys(prefix: str) -> str:
    """For SCAN: all of control, of the principal that begins with this."""
    return f"lb:{{{prefix}}}:*"


def is_principal_prefix(text: str) -> bool:
    return len(text) == _PREFIX and text.isascii() and text.isalnum()


def is_turn_id(text: str) -> bool:
    """Whether it may be part of a key."""
    return len(text) == _ID and text.isascii() and text.isalnum()


def journal_keys(turn: str) -> tuple[str, str]:
    """`own` and `ev`, in the order of the journal's scripts. Followers are notified of the name of
    `ev`."""
    return f"lb:{{{turn}}}:own", f"lb:{{{turn}}}:ev"
