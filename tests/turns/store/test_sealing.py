"""`[store].key_file`: of responses nothing readable is in the store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.turns.options import StoreOptions
from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.states import RELEASED
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.keys import control_keys, journal_keys
from hermes_lb.turns.store.opening import open_store
from hermes_lb.turns.store.sealing import Sealing
from tests.support.turn_fleet import ValkeyFleet, own, read_all, record_of, run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hermes_lb.turns.ports import OwnedTurn, TurnStore

KEY, OTHER = b"k" * 32, b"o" * 32
HEAD = b"HTTP/1.1 200 OK\r\nX-Secret: in-the-head\r\n\r\n"
EVENTS = [b"data: secret-%d\n\n" % number for number in range(1, 4)]


@pytest.fixture
async def fleet(valkey_url: str) -> AsyncIterator[ValkeyFleet]:
    """Of the balancers 0 and 1 with a key; 2 has another one, and 3 none."""
    running = ValkeyFleet(valkey_url)
    for number, key in enumerate((KEY, KEY, OTHER, None)):
        running.sealing = Sealing(key)
        await running.at(number)
    yield running
    await running.close()


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[StoreClient]:
    opened = StoreClient(valkey_url)
    yield opened
    await opened.close()


async def _journaled(store: TurnStore, claim: Any) -> OwnedTurn:
    turn = await own(store, claim)
    await turn.started("s1")
    await turn.headed(HEAD, is_stream=True, resume_path="/r")
    for event in EVENTS:
        turn.journal.append(event, 1)
        await until(lambda: not turn.journal.unacknowledged)
    return turn


async def _all_of(client: StoreClient, turn: str) -> bytes:
    """Everything that the store has of a turn."""
    record, (own_key, events) = control_keys(turn).turn, journal_keys(turn)
    found = [
        await client.ask(record, "HGETALL", record),
        await client.ask(own_key, "HGETALL", own_key),
        await client.ask(events, "XRANGE", events, "-", "+"),
    ]
    return repr(found).encode()


async def test_another_balancer_with_the_key_reads_it(
    fleet: ValkeyFleet, client: StoreClient
) -> None:
    claim = fleet.claim(key="k")
    turn = await _journaled(await fleet.at(0), claim)
    stored = await _all_of(client, turn.id)
    assert b"AES-256-GCM" in stored
    assert b"secret" not in stored.lower().replace(b"aes", b"")
    await turn.done()
    other = await fleet.at(1)
    record = await record_of(other, claim, turn.id)
    assert (record.head, record.is_kept) == (HEAD, True)
    data, end = await read_all(other.follow(record, 0))
    assert (data, end.is_clean) == (b"".join(EVENTS), True)
    assert (await read_all(other.follow(record, 2)))[0] == EVENTS[2]


@pytest.mark.parametrize("number", [2, 3], ids=["another key", "no key"])
async def test_a_balancer_without_the_key_reads_nothing(
    fleet: ValkeyFleet, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    claim = fleet.claim(key="k")
    turn = await _journaled(await fleet.at(0), claim)
    store = await fleet.at(number)
    for _ in range(2):
        with pytest.raises(StoreAway, match="another key"):
            await store.find(claim.principal, turn.id)
        with pytest.raises(StoreAway, match="another key"):
            await store.begin(fleet.claim(key="k"))
    said = [each.getMessage() for each in caplog.records if "key_file" in each.getMessage()]
    assert len(said) == 1
    assert store.is_reachable
    await turn.done()


async def test_what_is_not_encrypted_is_not_believed(fleet: ValkeyFleet) -> None:
    """It may have been written by a program that has the store, and not the key."""
    claim = fleet.claim(key="k")
    turn = await run(await fleet.at(3), claim, *EVENTS)
    with pytest.raises(StoreAway, match="another key"):
        await (await fleet.at(0)).find(claim.principal, turn.id)
    await turn.done()


async def test_a_batch_is_bound_to_its_place(fleet: ValkeyFleet, client: StoreClient) -> None:
    claims = [fleet.claim(key="a"), fleet.claim(key="b")]
    store, other = await fleet.at(0), await fleet.at(1)
    turns = [await _journaled(store, claim) for claim in claims]
    for turn in turns:
        await turn.done()
    (_, first), (_, second) = [journal_keys(turn.id) for turn in turns]
    record = await record_of(other, claims[0], turns[0].id)
    # Another turn's event with this number; then another event of its own.
    for source, entry in ((second, "1-2"), (first, "1-3")):
        [[_, fields]] = await client.ask(source, "XRANGE", source, entry, entry)
        [[_, kept], *rest] = await client.ask(first, "XRANGE", first, "1-2", "+")
        assert kept != fields
        await client.ask(first, "DEL", first)
        await client.ask(first, "XADD", first, "1-2", *fields)
        for number, each in rest:
            await client.ask(first, "XADD", first, number, *each)
        with pytest.raises(StoreAway, match="another key"):
            await read_all(other.follow(record, 1))


async def test_a_head_of_another_turn(fleet: ValkeyFleet, client: StoreClient) -> None:
    claims = [fleet.claim(key="a"), fleet.claim(key="b")]
    turns = [await _journaled(await fleet.at(0), claim) for claim in claims]
    source, target = (control_keys(turn.id).turn for turn in turns)
    head = await client.ask(source, "HGET", source, "head")
    await client.ask(target, "HSET", target, "head", head)
    with pytest.raises(StoreAway, match="another key"):
        await (await fleet.at(1)).find(claims[1].principal, turns[1].id)
    for turn in turns:
        await turn.done()


async def test_it_is_gone_on_with_by_another_process(fleet: ValkeyFleet) -> None:
    claim = fleet.claim(key="k")
    turn = await _journaled(await fleet.at(0), claim)
    await turn.orphan()
    other = await fleet.at(1)
    taken = await other.take_over(fleet.claim(), turn.id)
    assert taken is not None
    assert b"".join(batch.data for batch in taken.tail) == b"".join(EVENTS)
    taken.owned.journal.append(b"data: 4\n\n", 1)
    await taken.owned.done()
    record = await record_of(other, claim, turn.id)
    data, _ = await read_all(other.follow(record, 0))
    assert data == b"".join(EVENTS) + b"data: 4\n\n"


async def test_an_answer_that_releases(fleet: ValkeyFleet, client: StoreClient) -> None:
    claim = fleet.claim(key="k")
    turn = await own(await fleet.at(0), claim)
    await turn.release(HEAD + b"secret")
    assert b"secret" not in await _all_of(client, turn.id)
    record = await record_of(await fleet.at(1), claim, turn.id)
    assert (record.state, record.head) == (RELEASED, HEAD + b"secret")


async def test_the_key_is_of_a_file(tmp_path: Path, valkey_url: str) -> None:
    file = tmp_path / "key"
    options = StoreOptions.model_validate({"url": valkey_url, "key_file": str(file)})
    with pytest.raises(FileNotFoundError):
        await open_store(options)
    file.write_text("too short")
    with pytest.raises(ValueError, match="at least 16 bytes"):
        await open_store(options)
    file.write_text("long enough for a key")
    store = await open_store(options)
    await store.close()


async def test_the_library_is_missed_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ValueError, match=r"pip install 'hermes-lb\[encryption\]'"):
        Sealing(KEY)
    Sealing(None)
