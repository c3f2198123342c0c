"""The token of the admin listener, reread when its file changes."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from hermes_lb.config.token import read_token
from hermes_lb.errors import reason

if TYPE_CHECKING:
    from hermes_lb import config

logger = logging.getLogger("hermes_lb.admin")

# Identifies a version of the file: time of the last change, mode included; inode; size.
_Version = tuple[int, int, int]


class Token:
    """Raises OSError or ValueError as `read_token` does."""

    def __init__(self, configured: config.Admin) -> None:
        self._configured = configured
        self._version = self._look()
        token = read_token(configured)
        self._value = None if token is None else token.encode()

    def __repr__(self) -> str:
        return f"<Token {'none' if self._value is None else '...'}>"

    @property
    def is_set(self) -> bool:
        """False: no token is required."""
        return self._value is not None

    def current(self) -> bytes | None:
        """The current token; a changed file counts from the next request on.

        An unusable file is logged once, and the token stays as it was.
        """
        version = self._look()
        if version != self._version:
            self._version = version
            self._reload()
        return self._value

    def _reload(self) -> None:
        try:
            token = read_token(self._configured)
        except (OSError, ValueError) as error:
            logger.warning("the admin token stays as it was: %s", reason(error))
            return
        if token is not None and token.encode() != self._value:
            self._value = token.encode()
            logger.info("the admin token is the new one of %s", self._configured.token_file)

    def _look(self) -> _Version | None:
        """None without a file. A `stat` takes 2 us."""
        if self._configured.token_file is None:
            return None
        try:
            at = os.stat(self._configured.token_file)
        except OSError:
            return None
        return at.st_ctime_ns, at.st_ino, at.st_size
