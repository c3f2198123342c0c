"""The Idempotency-Key and the session of a request. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hermes_lb.http.json_search import MemberSearch, Repeated
from hermes_lb.http.keys import key_finder
from hermes_lb.proxy.turns.problems import TurnProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Bytes of a session's name; a longer one is no name.
MOST_IN_SESSION: Final = 256

_KEYS = re.compile(rb"\r\n(?i:idempotency-key):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)")
_VISIBLE = re.compile(rb"[\x21-\x7e]{1,255}").fullmatch
# RFC 9651 section 3.3.3: a String. The draft's key is one; most clients send the bare text.
_QUOTED = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+)"').fullmatch
_ESCAPED = re.compile(rb"\\(.)")


def header_key(request_head: bytes) -> bytes:
    """The Idempotency-Key; b"" without one. The quoted and the bare form are the same key.

    Raises TurnProblem unless it is one field of 1 to 255 visible characters.
    """
    found = _KEYS.findall(request_head, 0, request_head.find(b"\r\n\r\n") + 2)
    if not found:
        return b""
    value = found[0]
    quoted = _QUOTED(value)
    if quoted is not None:
        value = _ESCAPED.sub(rb"\1", quoted[1])
    if len(found) > 1 or _VISIBLE(value) is None:
        raise _malformed_key()
    return bytes(value)


def _malformed_key() -> TurnProblem:
    return TurnProblem(
        400, "malformed_key", "an Idempotency-Key is one field of 1 to 255 visible characters"
    )


def query_key(name: str) -> Callable[[bytes], bytes]:
    """The same for a key in a query parameter, as it was sent."""
    find = key_finder(f"query:{name}")

    def key(request_head: bytes) -> bytes:
        value = find(request_head)
        if value and _VISIBLE(value) is None:
            raise _malformed_key()
        return value

    return key


def _bad_session(detail: str) -> TurnProblem:
    return TurnProblem(400, "malformed_session", detail)


def head_session(source: str) -> Callable[[bytes], bytes]:
    """A finder of a session's name in a request's head; b"" without one."""
    find = key_finder(source)

    def session(request_head: bytes) -> bytes:
        name = find(request_head)
        if len(name) > MOST_IN_SESSION:
            raise _bad_session(f"a session's name has at most {MOST_IN_SESSION} bytes")
        return name

    return session


class BodySession:
    """The session's name in a JSON body: `advance` until it returns True. Raises TurnProblem.

    `name`: b"" without one.
    """

    __slots__ = ("_search", "name")

    def __init__(self, body: bytes, path: Sequence[str]) -> None:
        self._search = MemberSearch(body, path)
        self.name = b""

    def advance(self) -> bool:
        """Read a part of the body: it takes a millisecond at most."""
        try:
            is_read = self._search.advance()
        except Repeated:
            raise _bad_session("the member with the session stands twice in the body") from None
        except ValueError as error:
            raise _bad_session(f"the body is not JSON, or too much of it ({error})") from None
        if is_read:
            self.name = _name_of(self._search.value)
        return is_read


def _name_of(value: object) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _bad_session("a session's name is a string or an integer")
    name = str(value).encode(errors="surrogatepass")
    if len(name) > MOST_IN_SESSION:
        raise _bad_session(f"a session's name has at most {MOST_IN_SESSION} bytes")
    return name


def body_session(pointer: str) -> Callable[[bytes], BodySession]:
    """Where a session's name is in a JSON body, as an RFC 6901 pointer."""
    path = [
        part.replace("~1", "/").replace("~0", "~") for part in pointer.removeprefix("/").split("/")
    ]
    return lambda body: BodySession(body, path)
