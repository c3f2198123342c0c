"""The files of each frontend's TLS, as they were when they last were good: kept in memory.

A renewal may have written half of them when a worker dies. Its successor then begins with these,
as the other workers go on with what they have read.
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

# Seconds between two looks at the files, if no frontend wants them to be looked at more often.
_LOOK_EVERY = 60.0


class KeptFiles:
    """By frontend; of one whose files were never good there are none."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tls, TlsFiles]] = {}

    def __repr__(self) -> str:
        return f"<KeptFiles of {', '.join(self._kept) or 'nobody'}>"

    def take(self, configured: Config, good: Mapping[str, TlsFiles]) -> list[str]:
        """What `check_certificates` has found for this configuration -> what has changed of files,
        a line for each frontend whose settings are the same."""
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
        """Take those that have changed and are good; what is not stays as it was."""
        for frontend in configured.frontends:
            if (tls := frontend.tls) is None:
                continue
            before = self._kept.get(frontend.name)
            found = await asyncio.to_thread(_good_files, tls, frontend.name, before)
            # A reload may have been faster.
            if found is not None and self._kept.get(frontend.name) is before:
                self._kept[frontend.name] = tls, found

    async def keep_looking(self, configured: Callable[[], Config]) -> None:
        """As often as the configuration that there is then says."""
        while True:
            wanted = [f.tls.reload_interval for f in configured().frontends if f.tls is not None]
            await asyncio.sleep(min([_LOOK_EVERY, *(seconds for seconds in wanted if seconds)]))
            await self.look(configured())

    def of(self, configured: Config) -> dict[str, Any]:
        """The state of those that fit its settings, by frontend: for a worker."""
        return {
            frontend.name: self._kept[frontend.name][1].state
            for frontend in configured.frontends
            if frontend.name in self._kept and self._kept[frontend.name][0] == frontend.tls
        }

    @property
    def state(self) -> list[list[Any]]:
        """For `restore` by the program's next image."""
        return [
            [name, tls.model_dump(mode="json"), files.state]
            for name, (tls, files) in self._kept.items()
        ]

    def restore(self, state: Iterable[list[Any]]) -> None:
        """Those that this code understands; the others are looked at anew."""
        for name, tls, files in state:
            with suppress(ValueError, KeyError):
                self._kept[name] = Tls.model_validate(tls), TlsFiles.restore(files)


def _good_files(
    configured: Tls, frontend: str, known: tuple[Tls, TlsFiles] | None
) -> TlsFiles | None:
    """None: they are those that are known, or no good."""
    if known is not None and known[0] == configured and known[1].stamps == stamps_of(configured):
        return None
    try:
        return Certificates(configured, frontend).files
    except OSError:
        return None
