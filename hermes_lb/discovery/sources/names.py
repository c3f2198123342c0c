"""Names of servers, made of names that a source gives.

A server's name is in cookies, metrics, logs and the admin API, so it has the alphabet and the
length of a name in the configuration.
"""

from __future__ import annotations

import re
from hashlib import sha256

_MOST = 64
_VALID = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_DIGEST = 10


def server_name(given: object) -> str | None:
    """A name of any length -> a name of a server; None: it has other characters.

    The names of pods have up to 253 characters: the end of a long one becomes a hash of all of it.
    """
    if not isinstance(given, str) or not _VALID.fullmatch(given):
        return None
    if len(given) <= _MOST:
        return given
    digest = sha256(given.encode()).hexdigest()[:_DIGEST]
    return f"{given[: _MOST - _DIGEST - 1]}-{digest}"


def name_of_address(host: str, port: int) -> str:
    """`10.0.1.12-8000`, `2001-db8--1-8000`."""
    return server_name(f"{host.replace(':', '-').replace('%', '-')}-{port}") or f"server-{port}"
