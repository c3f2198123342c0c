"""How a request ended, in HAProxy's four letters.

Source: HAProxy 2.6 configuration manual, section 8.5 "Session state at disconnection". Only the
letters that this balancer can mean are listed here. The first two, joined, are the `termination`
of `hermes_lb.errors`; a log line carries all four, such as "--NI" or "CDVN".
"""

from __future__ import annotations

# First letter: the first event that caused the end.
WHO = {
    "-": "normal end",
    "C": "the client aborted",
    "S": "the server aborted, or refused the connection",
    "D": "the server was marked down (`on_marked_down`)",
    "P": "the proxy refused or blocked it",
    "L": "answered by the proxy itself, no server was asked",
    "R": "a resource of the proxy ran out: memory, sockets, ports",
    "K": "killed by an operator, or at the end of the drain time",
    "c": "the client's timeout",
    "s": "the server's timeout (in phase Q: the queue's)",
}

# Second letter: what was waited for then.
PHASE = {
    "-": "nothing: it was over",
    "R": "the whole request head; nothing was sent to any server",
    "Q": "a free place on a server",
    "C": "the connection to the server",
    "H": "the response head",
    "D": "data, either way",
    "L": "the client, to take the last data; the server had finished",
}

# Third letter: the affinity cookie in the request.
REQUEST_COOKIE = {
    "-": "no cookie is configured",
    "N": "none",
    "I": "invalid: it names no known server",
    "D": "it names a server that is down",
    "V": "valid: it names the server that was used",
    "E": "expired: older than max_idle",
    "O": "old: older than max_life",
}

# Fourth letter: the affinity cookie in the response.
RESPONSE_COOKIE = {
    "-": "no cookie is configured",
    "N": "none, and none was inserted",
    "I": "inserted by the proxy",
    "U": "its date was updated by the proxy",
    "P": "provided by the server and passed on",
    "R": "rewritten by the proxy",
    "D": "the server's was deleted by the proxy",
}

NORMAL = "--"
NO_COOKIE = "--"

_ABORTED_BY = {
    "C": "client", "c": "client",
    "S": "server", "s": "server", "D": "server",
    "P": "proxy", "R": "proxy", "K": "proxy",
}  # fmt: skip


def aborted_by(termination: str) -> str | None:
    """`"client"`, `"server"`, `"proxy"`, or None after a normal end (letters `-` and `L`).

    `termination` has at least one letter; the first decides. A timeout counts for the side that
    was waited for. Raises KeyError for a letter that is not in `WHO`.
    """
    who = termination[:1]
    return None if who in ("-", "L") else _ABORTED_BY[who]
