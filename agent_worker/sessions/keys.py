"""The keys of a session, and what a session id looks like."""

from __future__ import annotations

import re
import secrets

# 24 random bytes: nobody guesses one, so an id is also a (weak) second secret.
_ID_BYTES = 24
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")

#: What keys begin with: of sessions, and of chats that are kept while they run. Neither is found
#: where the other is looked for.
SESSIONS, CHATS = "hermes", "hermes:chat"

#: The order in which every script receives them (`lua/_common.lua` names them so).
KINDS = ("meta", "lease", "msgs", "tools", "ev", "req", "inbox")


def new_session_id() -> str:
    """A fresh opaque id: 32 characters of the URL-safe base64 alphabet."""
    return secrets.token_urlsafe(_ID_BYTES)


def is_session_id(text: str) -> bool:
    """Whether `text` could be a session id. Nothing else may become part of a key."""
    return _SESSION_ID.fullmatch(text) is not None


def session_keys(session_id: str, space: str = SESSIONS) -> list[str]:
    """All keys of the session, in the order of `KINDS`; the hash tag puts them in one slot."""
    return [f"{space}:{{{session_id}}}:{kind}" for kind in KINDS]


def session_id_of(key: str) -> str:
    """The session whose key this is."""
    return key[key.index("{") + 1 : key.index("}")]
