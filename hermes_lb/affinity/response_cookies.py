"""The affinity cookie in the response of one request, and its letter in the access log.

The server's own cookie of that name is removed, rewritten or kept; the balancer's is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.affinity import Reading

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead


class Asked(NamedTuple):
    """Of the request: its affinity cookie, and what it says if it has dates.

    `seconds`: since 1970, now.
    """

    method: bytes
    cookie: bytes | None
    reading: Reading | None
    seconds: int


class Fields(NamedTuple):
    """`lines` are forwarded, `added` are ours, each with its CRLF. `letter`: for the log."""

    lines: bytes
    added: bytes
    letter: str


def with_cookie(
    affinity: CookieAffinity, server: Server, head: ResponseHead, asked: Asked
) -> Fields:
    """The fields of a response, with the affinity cookie as the mode wants it."""
    fields = Fields(head.forwarded, b"", "N")
    if head.has_set_cookie:
        fields = _without_the_servers(affinity, server, head)
    if affinity.inserts and fields.letter != "P":
        return _set_cookie(fields, affinity, server, head, asked)
    return fields


def _without_the_servers(affinity: CookieAffinity, server: Server, head: ResponseHead) -> Fields:
    """Without the server's own affinity cookie, and with those that replace it."""
    cookies = [
        (position, value)
        for position, (name, value) in enumerate(head.fields())
        if name.lower() == b"set-cookie"
    ]
    letter = "P" if any(affinity.preserves(value) for _, value in cookies) else "N"
    doomed = [position for position, value in cookies if affinity.strips(value)]
    if not doomed:
        return Fields(head.forwarded, b"", letter)
    if affinity.inserts:
        return Fields(head.forwarded_without(doomed), b"", "D")
    rewritten = [affinity.rewritten(head.values[position], server) for position in doomed]
    lines = b"".join(b"Set-Cookie: %b\r\n" % value for value in rewritten)
    return Fields(head.forwarded_without(doomed), lines, "R")


def _set_cookie(
    fields: Fields, affinity: CookieAffinity, server: Server, head: ResponseHead, asked: Asked
) -> Fields:
    """With the affinity cookie, unless the client's names this server."""
    if affinity.has_dates:
        reading = asked.reading or Reading(None)
        value = affinity.dated(server, reading, asked.seconds)
        if value is None:
            return fields
        # HAProxy calls it updated if the client stays where it was.
        letter = "U" if reading.server is server else "I"
        return Fields(fields.lines, affinity.inserted(server, asked.method, head, value), letter)
    named = affinity.server_for(asked.cookie) if asked.cookie is not None else None
    if named is server:
        return fields
    return Fields(fields.lines, affinity.inserted(server, asked.method, head), "I")
