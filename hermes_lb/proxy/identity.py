"""The names that one balancer gives: to itself in Via, and to requests without an id."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from itertools import count


class Identity:
    """`key`: shared by all processes of a balancer, and kept by an upgrade."""

    __slots__ = ("_request_id", "_request_numbers", "key")

    def __init__(self) -> None:
        self.key = secrets.token_bytes(16)  # until the supervisor sends the shared one
        self._request_id = secrets.token_hex(8).encode("ascii") + b"%016x"
        self._request_numbers = count(1)

    def pseudonym(self, frontend: str) -> bytes:
        """The name of a frontend in Via: the same in all processes of this balancer, after an
        upgrade too, and different on every other balancer."""
        digest = blake2b(frontend.encode(), key=self.key, digest_size=8, person=b"via").hexdigest()
        return b"hermes-lb-" + digest.encode("ascii")

    def new_request_id(self) -> bytes:
        """32 hexadecimal digits: this process's random half, and a number."""
        return self._request_id % next(self._request_numbers)
