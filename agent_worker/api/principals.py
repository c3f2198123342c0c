"""Authentication: the principal of a bearer token."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from agent_worker.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Mapping

ANONYMOUS = "anonymous"
# RFC 6750 §2.1, b64token. Longer than any token in use; refused before it is hashed.
_MAX_TOKEN = 4096


class Principals:
    """Token -> principal.

    With configured tokens only these are accepted. Without, each token is a principal of its own,
    and no token is `anonymous`: for development. Tokens are never stored in Redis or logged.
    """

    def __init__(self, tokens: Mapping[str, str] | None = None) -> None:
        self.accept(tokens or {})

    def accept(self, tokens: Mapping[str, str]) -> None:
        """These and no others, from the next request on."""
        # By digest, so that the time of a lookup reveals nothing about a token.
        self._known = {_digest(token): name for token, name in tokens.items()}

    @property
    def is_open(self) -> bool:
        """Whether every token is accepted."""
        return not self._known

    def identify(self, authorization: str | None) -> str:
        """The principal of an Authorization header (None: no header). Raises Unauthorized."""
        if authorization is None:
            if self.is_open:
                return ANONYMOUS
            raise Unauthorized
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
            raise Unauthorized
        digest = _digest(token)
        if self.is_open:
            return f"token:{digest}"
        if digest not in self._known:
            raise Unauthorized
        return f"user:{self._known[digest]}"


def _digest(token: str) -> str:
    # surrogateescape: aiohttp decodes header bytes that are not UTF-8 in this way.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
