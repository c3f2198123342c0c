"""Whose request it is: a keyed digest of its credential. Nothing of the credential is kept."""

from __future__ import annotations

import re
from base64 import b32encode
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from hermes_lb.proxy.turns.problems import TurnProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb.proxy.ports import Peer

#: Characters of a principal that the ids of its turns begin with.
IN_ID: Final = 16
# 128 bits in base32.
_CHARACTERS: Final = 26
_FINGERPRINT = re.compile(rb"\r\nX-SSL-Client-Fingerprint: ([^\r\n]+)\r\n")
#: The principal of all requests, where the configuration says that there are none.
_EVERYBODY: Final = b"*"


def digest(secret: bytes, kind: bytes, *parts: bytes) -> str:
    """26 characters. `kind`: so that equal values of another kind have other digests."""
    # Each part with its length, so that no two lists of parts are the same bytes.
    data = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    made = blake2b(data, key=secret, digest_size=16, person=kind)
    return b32encode(made.digest()).decode().lower()[:_CHARACTERS]


class PrincipalFinder:
    """By the sources of a route, of which the first one that a request has counts."""

    __slots__ = ("_scope", "_sources", "vary")

    def __init__(self, scope: str, sources: Sequence[str]) -> None:
        """`scope`: the backend. Two scopes never share a turn."""
        self._scope = scope.encode()
        self._sources = [(source.encode(), _finder(source)) for source in sources]
        #: Names of fields on which the answer depends, for Vary.
        self.vary = ", ".join(dict.fromkeys(filter(None, map(_field_of, sources)))).encode()

    def find(self, secret: bytes, request_head: bytes, peer: Peer, address: str) -> str:
        """ "" if the request has no credential. Raises TurnProblem if it has two of one name."""
        for source, find in self._sources:
            value = find(request_head, peer, address)
            if value:
                return digest(secret, b"principal", self._scope, source, value)
        return ""


def _field_of(source: str) -> str:
    kind, _, name = source.partition(":")
    return {"header": name, "cookie": "Cookie"}.get(kind, "")


def _finder(source: str) -> Callable[[bytes, Peer, str], bytes]:
    kind, _, name = source.partition(":")
    if kind == "header":
        fields = re.compile(rb"\r\n(?i:" + re.escape(name.encode()) + rb"):([^\r\n]*)")
        return lambda head, peer, address: _only(_found(fields, head))
    if kind == "cookie":
        wanted = name.encode()
        return lambda head, peer, address: _only(cookies_of(head, wanted))
    if kind == "certificate":
        return lambda head, peer, address: _certificate(peer)
    if kind == "client":
        return lambda head, peer, address: address.encode()
    return lambda head, peer, address: _EVERYBODY


def _found(fields: re.Pattern[bytes], request_head: bytes) -> list[bytes]:
    end = request_head.find(b"\r\n\r\n") + 2
    return [value.strip(b" \t") for value in fields.findall(request_head, 0, end)]


_COOKIES = re.compile(rb"\r\n(?i:cookie):([^\r\n]*)")


def cookies_of(request_head: bytes, name: bytes) -> list[bytes]:
    """The values of all cookies of this name."""
    pairs = (
        pair.strip(b" \t").partition(b"=")
        for line in _found(_COOKIES, request_head)
        for pair in line.split(b";")
    )
    return [value for key, _, value in pairs if key == name]


def _only(values: Sequence[bytes]) -> bytes:
    if len(values) > 1:
        # A backend may take another one of them than we do.
        raise TurnProblem(400, "ambiguous_principal", "there are two credentials of one name")
    return values[0] if values else b""


def _certificate(peer: Peer) -> bytes:
    match = _FINGERPRINT.search(b"\r\n" + peer.certificate)
    return match[1] if match is not None else b""
