"""Responses in the store are encrypted with the key of `[store].key_file`: AES-256-GCM.

Each turn has a key of its own, which is derived from that one and its id. Sealed data is bound to
its place: a program that may write to the store can't put it into another turn, or elsewhere in the
same one. Digests, states, names of servers and the backend's resume path are not sealed.
"""

from __future__ import annotations

import logging
import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.turns.ports import Batch, StoreAway

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

logger = logging.getLogger("hermes_lb.turns")

# A stored head begins with "HTTP/": without the key it can be seen that one is sealed.
_MARK: Final = b"\0AES-256-GCM\0"
_NONCE: Final = 12  # bytes; random: 2^32 batches with one key, a turn's, are its limit
_HEAD: Final = "head"


class Sealing:
    """`key` None: nothing is sealed, and what others have sealed can't be read."""

    __slots__ = ("_aead", "_has_reported", "_key")

    def __init__(self, key: bytes | None) -> None:
        """32 bytes. Raises ValueError if the library is missing."""
        self._key = key
        self._has_reported = False
        if key is None:
            return
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise ValueError(
                "[store] key_file needs a library: pip install 'hermes-lb[encryption]'"
            ) from None
        self._aead = AESGCM

    def of(self, turn: str) -> Seal | None:
        """None: nothing is sealed."""
        if self._key is None:
            return None
        key = blake2b(turn.encode(), key=self._key, digest_size=32, person=b"a turn's key").digest()
        return Seal(turn, self._aead(key))

    def sealed_head(self, turn: str, head: bytes) -> bytes:
        seal = self.of(turn)
        return head if seal is None else seal.seal(head, _HEAD)

    def open_head(self, turn: str, stored: bytes) -> bytes:
        """b"" stays what it is. Raises StoreAway."""
        if not stored:
            return stored
        seal = self.of(turn)
        if seal is not None:
            head = seal.open(stored, _HEAD)
            if head is not None:
                return head
        elif not stored.startswith(_MARK):
            return stored
        raise self.unreadable(turn)

    def batches(self, turn: str, fields: Sequence[Any]) -> list[Batch]:
        """`fields`: the number of the last event, the count and the data of each. Raises
        StoreAway."""
        batches = [Batch(*each) for each in zip(*[iter(fields)] * 3, strict=True)]
        seal = self.of(turn) if batches else None
        if seal is None:
            return batches
        opened = []
        for batch in batches:
            data = seal.open(batch.data, batch.last)
            if data is None:
                raise self.unreadable(turn)
            opened.append(batch._replace(data=data))
        return opened

    def unreadable(self, turn: str) -> StoreAway:
        """It is logged once."""
        if not self._has_reported:
            self._has_reported = True
            logger.error(
                "turn %s in the store can't be read: all balancers need the same [store] key_file",
                turn[:24],
            )
        return StoreAway("its responses are encrypted with another key")


class Seal:
    """Of one turn."""

    __slots__ = ("_aead", "_turn")

    def __init__(self, turn: str, aead: AESGCM) -> None:
        self._turn = turn
        self._aead = aead

    def seal(self, data: bytes, place: str | int) -> bytes:
        """`place`: the number of a batch's last event; a head's is its name."""
        nonce = os.urandom(_NONCE)
        return _MARK + nonce + self._aead.encrypt(nonce, data, self._bound(place))

    def open(self, stored: bytes, place: str | int) -> bytes | None:
        """None: it is not what was sealed for this place."""
        from cryptography.exceptions import InvalidTag

        start = len(_MARK) + _NONCE
        if not stored.startswith(_MARK) or len(stored) < start:
            return None
        try:
            return self._aead.decrypt(
                stored[len(_MARK) : start], stored[start:], self._bound(place)
            )
        except InvalidTag:
            return None

    def _bound(self, place: str | int) -> bytes:
        return f"{self._turn} {place}".encode()
