"""The last valid TLS files of each frontend, kept in memory.

If a worker dies while a renewal has written half of the files, its replacement starts with these,
as the other workers go on with what they have loaded.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hermes_lb.config import Tls
from hermes_lb.tls.certificates import Certificates, TlsFiles, stamps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hermes_lb.config import Config

# Seconds between two checks of the files; a frontend's `reload_interval` may shorten it.
_LOOK_EVERY = 60.0


class KeptFiles:
    """By frontend. A frontend whose files were never valid has no entry."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tls, TlsFiles]] = {}

    def __repr__(self) -> str:
        return f"<KeptFiles of {', '.join(self._kept) or 'no frontend'}>"

    def take(self, configured: Config, good: Mapping[str, TlsFiles]) -> list[str]:
        """Keep what `check_certificates` has loaded for this configuration -> a line for each
        frontend with other files and the same settings."""
        before = self._kept
        self._kept = {
            frontend.name: (frontend.tls, good[frontend.name])
            for frontend in configured.frontends
            if frontend.tls is not None
        }
        return [
            f"frontends.{name}.tls: its files have changed"
            for name, (tls, files) in self._kept.items()
            if name in before and before[name][0] == tls and before[name][1].stamps != files.stamps
        ]

    async def look(self, configured: Config) -> None:
        """Load files that have changed; invalid ones are ignored."""
        for frontend in configured.frontends:
            if (tls := frontend.tls) is None:
                continue
            before = self._kept.get(frontend.name)
            found = await asyncio.to_thread(_good_files, tls, frontend.name, before)
            # A reload may have set it meanwhile.
            if found is not None and self._kept.get(frontend.name) is before:
                self._kept[frontend.name] = tls, found

    async def keep_looking(self, configured: Callable[[], Config]) -> None:
        """Check periodically, by the configuration of the time."""
        while True:
            wanted = [f.tls.reload_interval for f in configured().frontends if f.tls is not None]
            await asyncio.sleep(min([_LOOK_EVERY, *(seconds for seconds in wanted if seconds)]))
            await self.look(configured())

    def of(self, configured: Config) -> dict[str, Any]:
        """For a worker: the state of files that belong to the present settings, by frontend."""
        return {
            frontend.name: self._kept[frontend.name][1].state
            for frontend in configured.frontends
            if frontend.name in self._kept and self._kept[frontend.name][0] == frontend.tls
        }

    @property
    def state(self) -> list[list[Any]]:
        """For `restore` by the next generation."""
        return [
            [name, tls.model_dump(mode="json"), files.state]
            for name, (tls, files) in self._kept.items()
        ]

    def restore(self, state: Iterable[list[Any]]) -> None:
        """Entries that this code does not understand are dropped; `look` loads those files."""
        for name, tls, files in state:
            with suppress(ValueError, KeyError):
                self._kept[name] = Tls.model_validate(tls), TlsFiles.restore(files)


def _good_files(
    configured: Tls, frontend: str, known: tuple[Tls, TlsFiles] | None
) -> TlsFiles | None:
    """None if they are unchanged or invalid."""
    if known is not None and known[0] == configured and known[1].stamps == stamps_of(configured):
        return None
    try:
        return Certificates(configured, frontend).files
    except OSError:
        return None
