"""Journals on a real server, with records that a test sets."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

from hermes_lb.turns.ports import Claim, End, Record, StoreAway
from hermes_lb.turns.states import RUNNING
from hermes_lb.turns.store.keys import journal_keys, turn_id
from tests.support.turn_watcher import Watcher

if TYPE_CHECKING:
    from hermes_lb.turns.ports import Reading
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.journals import OwnedJournal
    from hermes_lb.turns.store.stored_journals import StoredJournals

CLEAN = End(True, "")


def claim(**fields: Any) -> Claim:
    defaults: dict[str, Any] = {
        "principal": secrets.token_hex(13),
        "nonce": secrets.token_hex(16),
        "key": "",
        "session": "",
        "fingerprint": "",
        "waits": True,
        "keep": 60.0,
        "keep_events": 30.0,
        "settle": 0.0,
        "repeats_lost": False,
        "journal_size": 1024 * 1024,
    }
    return Claim(**defaults | fields)


def event(number: int, size: int = 0) -> bytes:
    return b"data: %d %s\n\n" % (number, b"x" * size)


class Turn:
    """A turn, by what control would say of it, and its journal at its owner."""

    def __init__(self, journals: StoredJournals, **fields: Any) -> None:
        self.claim = claim(**fields)
        self.id = turn_id(self.claim.principal, self.claim.nonce)
        self.keys = journal_keys(self.id)
        self.state = RUNNING
        self.journal: OwnedJournal = journals.open(self.id, self.claim.nonce, self.claim)
        self.journal.is_stream = True
        self.watcher = Watcher()
        self.journal.watch(self.watcher)
        self.written = b""
        self.last = 0

    def append(self, count: int = 1, size: int = 0) -> None:
        data = b"".join(event(self.last + number + 1, size) for number in range(count))
        self.last += count
        self.written += data
        self.journal.append(data, count)

    async def find(self) -> Record | None:
        return self.record

    @property
    def record(self) -> Record:
        return Record(
            id=self.id, state=self.state, fence=1, fingerprint="", has_key=False, head=b"head",
            is_stream=True, reason="", server="", resume_path="", first=0, last=0, is_kept=True,
            attempt=1, begun_at=0.0, ended_at=0.0,
        )  # fmt: skip

    def follow(self, journals: StoredJournals, after: int = 0) -> Follower:
        return Follower(self, journals.follow(self.record, after, self.find), after)


class Follower:
    """Reads on, and cuts the batch that it begins in, as a place does."""

    def __init__(self, turn: Turn, reading: Reading, after: int) -> None:
        self.reading = reading
        self.data = b""
        self.after = after
        self.pages = 0
        self._turn = turn

    async def read(self) -> End:
        """To the end. Raises Trimmed and StoreAway."""
        while True:
            found = await self.reading.next()
            if isinstance(found, End):
                self.reading.close()
                return found
            self.pages += 1
            for batch in found:
                first = batch.last - batch.events
                assert first <= self.after, f"a hole between {self.after} and {first}"
                events = batch.data.split(b"\n\n")[:-1][self.after - first :]
                self.data += b"".join(each + b"\n\n" for each in events)
                self.after = batch.last

    async def read_patiently(self) -> End:
        """The same over an outage of the store."""
        while True:
            try:
                return await self.read()
            except StoreAway:
                await asyncio.sleep(0.05)

    def expected(self, begin: int) -> bytes:
        """The owner's bytes from behind event `begin` to where this one is."""
        events = self._turn.written.split(b"\n\n")[begin : self.after]
        return b"".join(each + b"\n\n" for each in events)


async def contents(client: StoreClient, turn: Turn) -> dict[str, str]:
    """Of `own`."""
    found = [each.decode() for each in await client.ask(turn.keys[0], "HGETALL", turn.keys[0])]
    return dict(zip(found[::2], found[1::2], strict=True))
