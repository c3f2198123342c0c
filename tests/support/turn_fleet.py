"""Several balancers that share a store of turns, in memory or in Valkey, for the contract suite."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NoReturn

from hermes_lb.turns.ports import BUSY, JOINED, OWNED, QUEUED, Claim, End
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.incarnation import retire
from hermes_lb.turns.store.sealing import Sealing
from hermes_lb.turns.store.stored_journals import StoredJournals
from hermes_lb.turns.store.stored_turns import StoredTurns
from hermes_lb.turns.store.timing import Timing
from tests.support.turn_store import MemoryStore, MemoryTurnStore
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb.turns.ports import OwnedTurn, Reading, Record, TurnStore

NAMES = {OWNED: "owned", QUEUED: "queued", JOINED: "joined", BUSY: "busy"}


class TurnFleet:
    """`balancers` by number, made on first use. Each test has principals of its own."""

    #: Seconds of a session's pause in `claim`, long enough to be seen.
    settle = 0.05

    def __init__(self) -> None:
        self._balancers: dict[int, TurnStore] = {}
        self.principal = new_principal()

    async def at(self, number: int) -> TurnStore:
        balancer = self._balancers.get(number)
        if balancer is None:
            balancer = self._balancers[number] = await self.make()
        return balancer

    async def make(self) -> TurnStore:
        raise NotImplementedError

    async def kill(self, number: int) -> None:
        """As SIGKILL does, with a supervisor that notices it."""
        raise NotImplementedError

    async def acknowledged(self, turn: OwnedTurn) -> None:
        """The store has all of its events."""
        await eventually(lambda: not turn.journal.unacknowledged, "its journal is stored")

    def go_away(self, is_away: bool) -> None:
        """The store can't be reached."""
        raise NotImplementedError

    async def close(self) -> None:
        for balancer in self._balancers.values():
            await balancer.close()

    def claim(self, **fields: Any) -> Claim:
        defaults: dict[str, Any] = {
            "principal": self.principal,
            "nonce": secrets.token_hex(16),
            "key": "",
            "session": "",
            "fingerprint": "",
            "waits": True,
            "keep": 60.0,
            "keep_events": 30.0,
            "settle": self.settle,
            "repeats_lost": False,
            "journal_size": 1024 * 1024,
        }
        return Claim(**defaults | fields)


class MemoryFleet(TurnFleet):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()

    async def make(self) -> TurnStore:
        return MemoryTurnStore(self.store)

    async def kill(self, number: int) -> None:
        balancer = await self.at(number)
        assert isinstance(balancer, MemoryTurnStore)
        balancer.kill()

    def go_away(self, is_away: bool) -> None:
        self.store.is_away = is_away


class ValkeyFleet(TurnFleet):
    """`timing` is short, so that deaths are observed in half a second."""

    timing = Timing(lease=0.5, beat=0.1, poll=0.05)
    patience = 1.0

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.sealing = Sealing(None)  # of the next ones that are made
        self._clients: list[StoreClient] = []

    async def make(self) -> TurnStore:
        client = StoreClient(self.url, patience=self.patience)
        journals = StoredJournals(client, self.sealing)
        store = StoredTurns(
            client, journals, journals.subscriber, sealing=self.sealing, timing=self.timing
        )
        self._clients.append(client)
        store.start()
        return store

    async def kill(self, number: int) -> None:
        balancer = await self.at(number)
        assert isinstance(balancer, StoredTurns)
        await balancer.abandon()
        other = StoreClient(self.url)
        await retire(other, balancer.incarnation)
        await other.close()

    def go_away(self, is_away: bool) -> None:
        for client in self._clients:
            topology = client.topology
            if is_away:
                topology.node = _refused  # type: ignore[method-assign]
                for node in topology._nodes.values():
                    node.abort()
            else:
                del topology.node  # type: ignore[misc]
                client.came_back()


async def _refused(key: str) -> NoReturn:
    raise ConnectionRefusedError("a test")


def new_principal() -> str:
    return secrets.token_hex(13)


async def own(store: TurnStore, claim: Claim) -> OwnedTurn:
    """Begin it, and wait for its grant if it is queued."""
    begun = await store.begin(claim)
    assert begun.outcome in (OWNED, QUEUED), begun
    assert begun.owned is not None
    if begun.outcome == QUEUED:
        await begun.owned.granted()
    return begun.owned


async def run(store: TurnStore, claim: Claim, *events: bytes) -> OwnedTurn:
    """A turn that has a head and these events, and goes on."""
    turn = await own(store, claim)
    await turn.started("s1")
    await turn.headed(b"HTTP/1.1 200 OK\r\n\r\n", is_stream=True)
    for event in events:
        turn.journal.append(event, 1)
    return turn


async def read_all(reading: Reading) -> tuple[bytes, End]:
    """Its bytes, and its end."""
    data = b""
    while True:
        found = await reading.next()
        if isinstance(found, End):
            reading.close()
            return data, found
        data += b"".join(batch.data for batch in found)


async def record_of(store: TurnStore, claim: Claim, turn: str) -> Record:
    record = await store.find(claim.principal, turn)
    assert record is not None
    return record
