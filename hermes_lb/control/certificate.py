"""The certificate of the admin listener, reread when its files change."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from hermes_lb.config.admin_tls import admin_context, load_certificate
from hermes_lb.errors import reason

if TYPE_CHECKING:
    from hermes_lb.config import AdminTls

logger = logging.getLogger("hermes_lb.admin")

# Seconds. Changed files are used once they have been the same for this time: they are written one
# after the other.
_EVERY = 1.0

_Stamps = list[tuple[int, int, int] | None]


class AdminCertificate:
    """`context` is the listener's. Raises OSError or ValueError as `admin_context` does."""

    def __init__(self, configured: AdminTls) -> None:
        self._configured = configured
        self._used = self._look()
        self.context = admin_context(configured)

    async def follow_files(self) -> None:
        """Use changed files for new handshakes. Files of no use are logged once, and the old ones
        stay in use."""
        seen = self._used
        while True:
            await asyncio.sleep(_EVERY)
            before, seen = seen, self._look()
            if seen == before and seen != self._used:
                self._used = seen
                self._reload()

    def _reload(self) -> None:
        try:
            admin_context(self._configured)  # a failure must not leave half of a pair in use
            load_certificate(self.context, self._configured)
        except (OSError, ValueError) as error:
            logger.warning("the admin certificate stays as it was: %s", reason(error))
        else:
            logger.info("the admin certificate is the new one of %s", self._configured.certificate)

    def _look(self) -> _Stamps:
        stamps: _Stamps = []
        for name in (self._configured.certificate, self._configured.key):
            try:
                at = os.stat(name)
            except OSError:
                stamps.append(None)
            else:
                stamps.append((at.st_mtime_ns, at.st_ino, at.st_size))
        return stamps
