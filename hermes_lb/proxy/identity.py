"""The names that one balancer gives: to itself in Via, and to requests without an id."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Identity:
    """`key`: shared by all processes of a balancer, and kept by an upgrade."""

    __slots__ = ("key", "new_request_id")

    def __init__(self) -> None:
        self.key = secrets.token_bytes(16)  # until the supervisor sends the shared one
        #: 32 hexadecimal digits: this process's random half, and a number.
        self.new_request_id: Callable[[], bytes] = _ids(secrets.token_hex(8).encode()).__next__

    def pseudonym(self, frontend: str) -> bytes:
        """The name of a frontend in Via: the same in all processes of this balancer, after an
        upgrade too, and different on every other balancer."""
        digest = blake2b(frontend.encode(), key=self.key, digest_size=8, person=b"via").hexdigest()
        return b"hermes-lb-" + digest.encode("ascii")


def _ids(half: bytes) -> Iterator[bytes]:
    """With the lowest digits from a table: half of the time of a format."""
    for high in count():
        beginning = half + b"%014x" % high
        for low in _BYTES:
            yield beginning + low


_BYTES = [b"%02x" % low for low in range(256)]
