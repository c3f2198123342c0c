"""The affinity cookie in the response of one request, and its letter in the access log.

The server's own cookie of that name is removed, rewritten or kept; the balancer's is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity import Reading

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead

    #: Lines, each with its CRLF, and the cookie's letter.
    Fields = tuple[bytes, str]


def with_cookie(
    affinity: CookieAffinity,
    server: Server,
    head: ResponseHead,
    method: bytes,
    reading: Reading | None,
    seconds: int,
) -> Fields:
    """The fields of a response, with the affinity cookie as the mode wants it.

    Of the request: `method`, and the `reading` of its cookie. `seconds`: since 1970, now.
    """
    lines, letter = head.forwarded, "N"
    if head.has_set_cookie:
        lines, letter = _without_the_servers(affinity, server, head)
    if not affinity.inserts or letter == "P":
        return lines, letter
    stays = reading is not None and reading.server is server
    if affinity.has_dates:
        value = affinity.dated(server, reading or Reading(None), seconds)
        if value is None:
            return lines, letter
        # HAProxy calls it updated if the client stays where it was.
        letter = "U" if stays else "I"
        return lines + affinity.inserted(server, method, head, value), letter
    if stays:
        return lines, letter
    return lines + affinity.inserted(server, method, head), "I"


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
        return head.forwarded, letter
    lines = head.forwarded_without(doomed)
    if affinity.inserts:
        return lines, "D"
    rewritten = [affinity.rewritten(head.values[position], server) for position in doomed]
    return lines + b"".join(b"Set-Cookie: %b\r\n" % value for value in rewritten), "R"
