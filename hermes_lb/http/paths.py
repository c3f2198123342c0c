"""Paths of requests: other prefixes for the servers, and what a server may read in one. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

#: Whether a server may read a path in another way than byte for byte.
is_unusual = re.compile(rb"//|/\.|[%\\;]").search
_SLASHES = re.compile(rb"[/\\]+")
_SEVERAL_AT_START = re.compile(rb"\A[/\\]{2,}")

# Encodings within encodings that are taken off. One is a server's; a second one is what a server
# behind another one may do.
_MOST_DECODED: Final = 3


def as_servers_read(path: bytes) -> bytes:
    """The path that a server may take `path` for: decoded, without `.`, `..`, doubled slashes and
    parameters of segments (`;x`), and with `/` for `\\`.

    nginx normalises so but for `;` (Tomcat) and `\\` (IIS). For a comparison, never forwarded.
    """
    for _ in range(_MOST_DECODED):
        decoded = unquote_to_bytes(path)
        if decoded == path:
            break
        path = decoded
    kept: list[bytes] = []
    segments = _SLASHES.sub(b"/", path).split(b"/")
    for segment in segments:
        name = segment.partition(b";")[0]
        if name == b"..":
            del kept[-1:]
        elif name not in (b"", b"."):
            kept.append(name)
    is_folder = segments[-1].partition(b";")[0] in (b"", b".", b"..")
    return b"/" + b"/".join(kept) + (b"/" if kept and is_folder else b"")


class PathRewrite:
    """Another prefix for a path that begins with `old`, and one before it.

    A result always has exactly one slash at its start: a second one would make a host of the
    segment behind it (RFC 3986 section 4.2), and none would be no path.
    """

    __slots__ = ("_added", "_new", "_old")

    def __init__(self, old: str, new: str, added: str) -> None:
        self._old = old.encode()
        self._new = new.encode()
        self._added = added.encode()

    def apply(self, target: bytes) -> bytes:
        """The target for the server: path and query."""
        if target[:1] != b"/":
            return target  # of OPTIONS *
        path, mark, query = target.partition(b"?")
        if path.startswith(self._old):
            path = _joined(self._new, path[len(self._old) :], self._old)
        path = _joined(self._added, path, b"/")
        return _SEVERAL_AT_START.sub(b"/", path) + mark + query


def _joined(new: bytes, rest: bytes, old: bytes) -> bytes:
    """With one slash between them, where one of the parts had one."""
    if rest[:1] == b"/":
        return new.removesuffix(b"/") + rest
    if old[-1:] == b"/" and new[-1:] != b"/":
        return new + b"/" + rest
    return new + rest or b"/"
