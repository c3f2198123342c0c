"""What the store has reported to the executing request of a turn."""

from __future__ import annotations

import asyncio


class Watcher:
    """`ports.TurnWatcher`, as events. `must_stop`: it was refused, or is to be cancelled."""

    def __init__(self) -> None:
        self.must_stop = asyncio.Event()
        self.refused = asyncio.Event()
        self.asked_to_cancel = asyncio.Event()
        self.behind = asyncio.Event()
        self.caught_up = asyncio.Event()

    def turn_refused(self) -> None:
        self.refused.set()
        self.must_stop.set()

    def cancel_requested(self) -> None:
        self.asked_to_cancel.set()
        self.must_stop.set()

    def journal_fell_behind(self) -> None:
        self.behind.set()

    def journal_caught_up(self) -> None:
        self.caught_up.set()
