"""The keys of TLS session tickets: the same in all processes of a balancer, new ones each day.

A ticket is a client's session, encrypted by the server and kept by the client (RFC 8446 section
4.6.1, RFC 5077). OpenSSL makes keys up for each context, and Python's ssl can't set others; so a
client could resume its session only in the process where it began. nginx and HAProxy keep them in
memory that their processes share. Here all processes derive them from one secret (`TicketSecret`),
and set them in OpenSSL by ctypes.
"""

from __future__ import annotations

import _ssl
import secrets
import sys
import time
from hashlib import blake2b, shake_256
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_DAY: Final = 86_400.0  # seconds
_SIZE: Final = 32  # bytes of a secret
# openssl/ssl.h: SSL_CTRL_GET_TLSEXT_TICKET_KEYS (without a buffer: their length), and SET.
_GET, _SET = 58, 59


class TicketSecret:
    """The secret of one day, from which the keys are derived: a hash of the previous day's secret.

    So processes that once shared a secret always do, without messages; and an attacker who learns
    today's secret can't read yesterday's recorded traffic.
    """

    def __init__(self, day: int, secret: bytes) -> None:
        self._day = day
        self._secret = secret

    @classmethod
    def new(cls) -> Self:
        return cls(_today(), secrets.token_bytes(_SIZE))

    @classmethod
    def restore(cls, state: str) -> Self:
        """`state` of another process, or of the program before an upgrade."""
        day, _, secret = state.partition(":")
        return cls(int(day), bytes.fromhex(secret))

    def __repr__(self) -> str:
        return f"<TicketSecret of day {self._day}>"

    @property
    def state(self) -> str:
        """For `restore`: it is as secret as the keys are."""
        return f"{self.day}:{self._secret.hex()}"

    @property
    def day(self) -> int:
        """Whose secret it is, in days since 1970. If the clock is set back, it stays."""
        for _ in range(_today() - self._day):
            self._secret = blake2b(self._secret, digest_size=_SIZE, person=b"next day").digest()
            self._day += 1
        return self._day

    def keys(self, purpose: bytes, length: int) -> bytes:
        """`length` bytes, which differ by purpose."""
        seed = blake2b(purpose, key=self._secret, digest_size=_SIZE, person=b"tickets").digest()
        return shake_256(seed).digest(length)


def until_tomorrow() -> float:
    """Seconds until 0:00 UTC, if the clock is not set meanwhile."""
    return _DAY - time.time() % _DAY


def _today() -> int:
    return int(time.time() // _DAY)


def set_ticket_keys(context: ssl.SSLContext, keys: Callable[[int], bytes]) -> bool:
    """`keys(length)` gives as many bytes as this OpenSSL wants.

    False: this Python isn't known to us, or its OpenSSL can't be called; then the context keeps
    its own keys.
    """
    if _control is None:
        return False
    length = _control(context, _GET, 0, None)
    return bool(_control(context, _SET, length, keys(length)))


def _find_control() -> Callable[[ssl.SSLContext, int, int, bytes | None], int] | None:
    """SSL_CTX_ctrl of the OpenSSL that the module ssl uses."""
    if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info < (3, 15):
        return None
    try:
        import ctypes

        ssl_ctx_ctrl = ctypes.CDLL(_ssl.__file__).SSL_CTX_ctrl
    except (ImportError, AttributeError, OSError, MemoryError):
        # Python without libffi; _ssl is a part of the interpreter, and its symbols are hidden; or
        # memory can't be made executable.
        return None
    ssl_ctx_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    ssl_ctx_ctrl.restype = ctypes.c_long

    def control(context: ssl.SSLContext, command: int, length: int, data: bytes | None) -> int:
        # PySSLContext of CPython's Modules/_ssl.c: after the head of an object is its SSL_CTX.
        ssl_ctx = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
        result: int = ssl_ctx_ctrl(ssl_ctx, command, length, data)
        return result

    return control


_control: Final = _find_control()
