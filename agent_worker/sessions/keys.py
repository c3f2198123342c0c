"""The keys of a session, and the form of its id."""

from __future__ import annotations

import re
import secrets

# 24 random bytes cannot be guessed, so an id is also a (weak) second secret.
_ID_BYTES = 24
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")

#: Key prefixes: of sessions, and of the journals of chats. No operation on one finds the other.
SESSIONS, CHATS = "hermes", "hermes:chat"

#: In the order in which every script receives them (see `lua/_common.lua`).
KINDS = ("meta", "lease", "msgs", "tools", "ev", "req", "inbox")


def new_session_id() -> str:
    """A new opaque id: 32 characters of the URL-safe base64 alphabet."""
    return secrets.token_urlsafe(_ID_BYTES)


def is_session_id(text: str) -> bool:
    """Whether `text` has the form of a session id. Nothing else may become part of a key."""
    return _SESSION_ID.fullmatch(text) is not None


def session_keys(session_id: str, space: str = SESSIONS) -> list[str]:
    """All keys of the session, in the order of `KINDS`; the hash tag puts them in one slot."""
    return [f"{space}:{{{session_id}}}:{kind}" for kind in KINDS]


def heartbeat_key(worker: str) -> str:
    """Its time to live tells the age of the worker's last heartbeat."""
    return f"hermes:heartbeat:{worker}"


def session_id_of(key: str) -> str:
    """The session of a key."""
    return key[key.index("{") + 1 : key.index("}")]
