"""The ClientHello: the host name that a TLS client sends, and its capabilities. No I/O.

OpenSSL parses and checks the same bytes afterwards; it gets none that were not understood here.
They are read because Python's ssl leaves two things open that any untrusted client could use:
`SSLContext.sni_callback` writes a traceback to stderr for a name that is not ASCII, and the groups
of a key exchange can't be chosen.
"""

from __future__ import annotations

from typing import NamedTuple

_HANDSHAKE = 22  # RFC 8446 section 5.1: ContentType
_CLIENT_HELLO = 1  # section 4: HandshakeType
_MOST_IN_RECORD = 1 << 14  # section 5.1
# Extensions.
_SERVER_NAME = 0  # RFC 6066 section 3
_GROUPS = 10  # RFC 8446 section 4.2.7
_ALPN = 16  # RFC 7301 section 3.1
_KEY_SHARE = 51  # RFC 8446 section 4.2.8

# Groups (section 4.2.7). OpenSSL prefers elliptic curves, of which these are the ones that it has.
_CURVES = frozenset((23, 24, 25, 29, 30))
_FINITE_FIELDS = range(0x100, 0x200)

# Bytes of a hello. Browsers send below 2 KiB, with post-quantum keys and padding; OpenSSL takes
# 128 KiB (`SSL3_RT_MAX_...`), which is only good for wasting memory.
MOST_IN_HELLO = 16 * 1024
# Records that it may be spread over. One is usual; a few are used to get past censors.
_MOST_RECORDS = 64


class NotTls(Exception):
    """The bytes are no TLS at all."""


class Malformed(Exception):
    """They are TLS, and not the beginning of a handshake that a client would make."""


class ClientHello(NamedTuple):
    """`server_name` in lower case, "" if there is none that could be a host's; `protocols` of ALPN,
    None if it was not used.

    `is_costly`: the key exchange would be Diffie-Hellman in a finite field. One of ffdhe8192 takes
    146 ms of a server's loop, and hardly anything of a client that cheats (CVE-2002-20001).
    """

    server_name: str = ""
    protocols: list[bytes] | None = None
    is_costly: bool = False


def read_client_hello(data: bytes | bytearray) -> ClientHello | int:
    """`data` is all input so far -> the parsed hello, or the least number of bytes before the next
    call: a client that sends byte by byte must not cost a call for each.

    Raises NotTls or Malformed as soon as that is certain.
    """
    if data[0] != _HANDSHAKE or (len(data) > 1 and data[1] != 3):
        raise NotTls
    message = bytearray()  # a hello may be spread over several records
    at = 0
    for _ in range(_MOST_RECORDS):
        if len(data) < at + 5:
            return at + 5
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at] != _HANDSHAKE or not 0 < size <= _MOST_IN_RECORD:
            raise Malformed
        if len(data) < at + 5 + size:
            return at + 5 + size
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
        if len(message) >= 4:
            length = int.from_bytes(message[1:4], "big")
            if message[0] != _CLIENT_HELLO or length > MOST_IN_HELLO:
                raise Malformed
            if len(message) >= 4 + length:
                return _parse(bytes(message[4 : 4 + length]))
    raise Malformed


def _parse(body: bytes) -> ClientHello:
    """RFC 8446 section 4.1.2; TLS 1.2 has the same form."""
    try:
        fields = _Fields(body)
        fields.take(2 + 32)  # version, random
        fields.vector(1)  # session id
        fields.vector(2)  # cipher suites
        fields.vector(1)  # compression methods
        extensions = _Fields(fields.vector(2) if fields else b"")
        name, protocols = "", None
        groups: set[int] = set()
        shares: set[int] = set()
        while extensions:
            kind = int.from_bytes(extensions.take(2), "big")
            content = _Fields(extensions.vector(2))
            if kind == _SERVER_NAME:
                name = _host_name(_Fields(content.vector(2)))
            elif kind == _ALPN:
                protocols = _protocols(_Fields(content.vector(2)))
            elif kind == _GROUPS:
                groups = _groups(_Fields(content.vector(2)))
            elif kind == _KEY_SHARE:
                shares = _shares(_Fields(content.vector(2)))
        has_curves = not _CURVES.isdisjoint(groups)
        is_costly = any(group in _FINITE_FIELDS for group in (shares if has_curves else groups))
        return ClientHello(name, protocols, is_costly)
    except _TooShort:
        raise Malformed from None


def _host_name(names: _Fields) -> str:
    while names:
        kind, name = names.take(1), names.vector(2)
        if kind == b"\0":  # the only kind that there is
            text = name.decode("ascii", "replace").lower().rstrip(".")
            return text if text.isascii() else ""
    return ""


def _protocols(names: _Fields) -> list[bytes]:
    found = []
    while names:
        found.append(names.vector(1))
    return found


def _groups(listed: _Fields) -> set[int]:
    found = set()
    while listed:
        found.add(int.from_bytes(listed.take(2), "big"))
    return found


def _shares(listed: _Fields) -> set[int]:
    found = set()
    while listed:
        found.add(int.from_bytes(listed.take(2), "big"))
        listed.vector(2)
    return found


class _TooShort(Exception):
    """A length points beyond the end."""


class _Fields:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise _TooShort
        self._at += size
        return taken

    def vector(self, length_size: int) -> bytes:
        """A length of `length_size` bytes, and the content of that length."""
        return self.take(int.from_bytes(self.take(length_size), "big"))
