"""What the variables of templates stand for (`http.templates`).

Clients choose some of it. So a value is made of visible ASCII: all else is percent-encoded. A path
begins with exactly one slash and has no backslash: in a `Location`, a browser would take
`//evil.example` and `/\\evil.example` for another host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from hermes_lb.http.templates import Variable, parse

if TYPE_CHECKING:
    from collections.abc import Collection

    from hermes_lb.backends import Server
    from hermes_lb.http import RequestHead
    from hermes_lb.proxy.ports import Peer
    from hermes_lb.proxy.select import Backend


class Named(Protocol):
    """A policy: `name` is its route's."""

    name: str


class Asked(Protocol):
    """An exchange, as far as variables need it."""

    backend: Backend | None
    client_address: str
    head: RequestHead
    peer: Peer
    server: Server | None
    status: int

    @property
    def policy(self) -> Named | None: ...


_HIDDEN = re.compile(rb"[^\x20-\x7e]")
_SLASHES = re.compile(rb"\A[/\\]*")
_S_DN = re.compile(rb"^X-SSL-Client-S-DN: ([^\r\n]*)\r\n", re.MULTILINE)


def _encoded(value: bytes) -> bytes:
    return _HIDDEN.sub(lambda found: b"%%%02X" % found[0][0], value)


def scheme_of(head: RequestHead, peer: Peer) -> bytes:
    """b"https" or b"http": by which the client came to us, or to the trusted proxy before us."""
    rare = head.rare
    said = rare.forwarded_proto if rare is not None and peer.is_trusted else b""
    return said.lower() or peer.scheme


def value_of(name: str, asked: Asked) -> bytes:
    """Raises KeyError for an unknown name."""
    head, peer = asked.head, asked.peer
    path, mark, query = head.target.partition(b"?")
    query = query.replace(b"\\", b"%5C")
    match name:
        case "backend":
            return b"" if asked.backend is None else asked.backend.name.encode()
        case "client":
            return asked.client_address.encode()
        case "client_port":
            return b"%d" % peer.port
        case "frontend":
            return peer.frontend.name.encode()
        case "host":
            return head.host_name.encode()
        case "method":
            return head.method
        case "path":
            return _local(path)
        case "query":
            return query
        case "request_id":
            return head.request_id
        case "route":
            return b"" if asked.policy is None else asked.policy.name.encode()
        case "scheme":
            return b"https" if scheme_of(head, peer) == b"https" else b"http"
        case "server":
            return b"" if asked.server is None else asked.server.name.encode()
        case "status":
            return b"%d" % asked.status
        case "target":
            return _local(path) + mark + query
        case "tls_client":
            found = _S_DN.search(peer.certificate)
            return found[1] if found is not None else b""
        case "tls_name":
            return peer.tls_name.encode()
        case "tls_version":
            return peer.tls_version.encode()
        case "trace_id":
            return head.trace_id
    raise KeyError(name)


def _local(path: bytes) -> bytes:
    """Of this host, for any reader; "/" for the `*` of OPTIONS."""
    return _SLASHES.sub(b"/", path.removeprefix(b"*")).replace(b"\\", b"%5C")


class Template:
    """A text with variables, ready to be filled."""

    __slots__ = ("_parts", "needs_host")

    def __init__(self, text: str, known: Collection[str]) -> None:
        """Raises ValueError (`http.templates.parse`)."""
        self._parts = parse(text, known)
        #: It makes no sense without the host of the request.
        self.needs_host = Variable("host") in self._parts

    def fill(self, asked: Asked) -> bytes:
        """Visible ASCII, and blanks within it."""
        return b"".join(
            part if isinstance(part, bytes) else _encoded(value_of(part, asked))
            for part in self._parts
        ).strip(b" \t")
