"""The live stream for dashboards: one event a second, serialised once for all listeners.

The first event of a listener has all servers, the others only those that differ from the one
before. A listener that is slow skips some events, delays no other, and gets all servers again.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.control.shapes import Moment, SampledServer

# Servers that are described and serialised in one iteration of the loop: 0.2 ms.
_AT_ONCE = 8


class Feed:
    """Holds only the newest moment: its servers as JSON, by BACKEND/SERVER."""

    def __init__(self) -> None:
        self.listeners = 0
        self.number = 0  # events so far
        self._moment: Moment | None = None
        self._servers: dict[str, bytes] = {}
        self._whole: bytes | None = None  # made when the first listener needs it
        self._changed = b""
        self._is_closed = False
        self._news = asyncio.Event()
        self._publishing = asyncio.Lock()

    async def publish(self, moment: Moment, servers: Iterable[SampledServer]) -> None:
        """Send it, with these servers, to all listeners. `servers` are read in parts, between which
        other tasks run."""
        async with self._publishing:
            known, texts, changed = self._servers, {}, []
            for count, server in enumerate(servers, 1):
                key = f"{server['backend']}/{server['name']}"
                text = texts[key] = _text(server)
                if known.get(key) != text:
                    changed.append(text)
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            gone = [key for key in known if key not in texts]
            self._changed = _event({**moment, "gone": gone, "is_whole": False}, changed)
            self._moment, self._servers, self._whole = moment, texts, None
            self.number += 1
            self._notify()

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def whole(self) -> tuple[int, bytes]:
        """The newest event, with all servers; and its number."""
        assert self._moment is not None, "nothing was published"
        if self._whole is None:
            self._whole = _event(self._moment, self._servers.values())
        return self.number, self._whole

    async def next(self, seen: int) -> tuple[int, bytes] | None:
        """The next event after number `seen`, with its number; None at the end of the stream."""
        while self.number <= seen and not self._is_closed:
            await self._news.wait()
        if self._is_closed:
            return None
        return (self.number, self._changed) if self.number == seen + 1 else self.whole()


def _event(moment: Moment, servers: Iterable[bytes]) -> bytes:
    """The moment as JSON, with these servers instead of its own."""
    head = {name: value for name, value in moment.items() if name != "servers"}
    return b'%b,"servers":[%b]}' % (_text(head)[:-1], b",".join(servers))


def _text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
