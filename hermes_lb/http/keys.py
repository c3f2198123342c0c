"""Where a message names a session: a header, a cookie, a query parameter, a part of a path.

A key in a JSON body is found by `json_keys`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hermes_lb.options.patterns import pattern

if TYPE_CHECKING:
    from collections.abc import Callable

    FindKey = Callable[[bytes], bytes]

#: Bytes of a key; a longer one is not a session's id, and is ignored.
MOST_IN_KEY: Final = 256

# The sources, and "client", as the options name them.
_NAMED = r"client|(header|cookie|query):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
HASH_ON = pattern(rf"^({_NAMED})$", '"client", "header:NAME", "cookie:NAME" or "query:NAME"')
_PATH = r"/[^{}\x00-\x20?#]*\{[a-z_]*\}[^{}\x00-\x20?#]*"
_POINTER = r"(?:/(?:[^~/\x00-\x1f\x7f]|~[01]){0,64}){1,16}"  # RFC 6901
STICK_ON = pattern(
    rf"^({_NAMED}|json:{_POINTER}|path:{_PATH})$",
    '"header:NAME", "cookie:NAME", "query:NAME", "json:/pointer", "path:/sessions/{id}"'
    ' or "client"',
)
STICK_RESPONSE = pattern(
    rf"^(header:[!#$%&'*+.^_`|~0-9A-Za-z-]{{1,64}}|(json|event|engineio):{_POINTER}|location:{_PATH})$",
    '"header:NAME", "json:/pointer", "event:/pointer", "engineio:/pointer"'
    ' or "location:/sessions/{id}"',
)
_PLACE = re.compile(r"\{[^{}]*\}|\*")


def key_finder(source: str) -> FindKey:
    """`"header:NAME"`, `"cookie:NAME"`, `"query:NAME"` or `"path:/sessions/{id}"` -> what finds it.

    It is asked with a whole request head (a body may follow) and gives the key, b"" if there is
    none. Of several fields, cookies or parameters of the name the first counts, even if it is
    empty: so do nginx's variables and HAProxy's `url_param` (its `req.cook` takes the last), and
    user agents send the cookie of the longest path first (RFC 6265 section 5.4). In a path `{id}`
    is the key, and `*` any other segment; more may follow behind it.
    """
    kind, _, name = source.partition(":")
    escaped = re.escape(name.encode())
    if kind == "header":
        pattern = rb"\r\n(?i:" + escaped + rb"):([^\r\n]*)"
    elif kind == "cookie":
        pattern = rb"\r\n(?i:cookie):(?:[^\r\n;]*;)*?[ \t]*" + escaped + rb"=([^\r\n;]*)"
    elif kind == "query":
        pattern = rb"\A[^ ]+ [^ ?]*\?(?:[^ &]*&)*?" + escaped + rb"=([^ &]*)"
    elif kind == "path":
        pattern = rb"\A[^ ]+ " + _path_pattern(name) + rb"(?=[/? ])"
    else:
        raise ValueError(f"{source!r} is no source of a key")
    find = re.compile(pattern).search

    def key(request_head: bytes) -> bytes:
        found = find(request_head, 0, request_head.find(b"\r\n\r\n") + 4)
        return found[1].strip() if found is not None else b""

    return key


def location_finder(path: str) -> FindKey:
    """What finds the key in the value of a `Location`: a URL, or an absolute path.

    A relative path has none: it depends on the request's.
    """
    origin = rb"(?i:[a-z][a-z0-9+.-]*:)?(?://[^/?#]*)?"
    find = re.compile(origin + _path_pattern(path) + rb"(?=[/?#]|\Z)").match

    def key(location: bytes) -> bytes:
        found = find(location)
        return found[1] if found is not None else b""

    return key


def _path_pattern(path: str) -> bytes:
    """Raises ValueError unless there is exactly one `{...}`."""
    places = [place for place in _PLACE.findall(path) if place != "*"]
    if not path.startswith("/") or len(places) != 1:
        raise ValueError("a path with one place for the key, such as /api/sessions/{id}")
    pattern = re.escape(path.encode())
    pattern = re.sub(rb"\\\{[^{}]*\\\}", rb"([^/?# ]+)", pattern)
    return pattern.replace(rb"\*", rb"[^/?# ]+")
