"""One turn of a session at a time: grants, fences, dead waiters, on a real server."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.ports import Fenced, StoreAway
from hermes_lb.turns.states import CANCELLED, DONE, LOST
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.keys import control_keys
from hermes_lb.turns.store.quotas import Quotas
from tests.support.turn_control import ScriptRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb.turns.store.keys import TurnName


@pytest.fixture
async def run(valkey_url: str) -> AsyncIterator[ScriptRunner]:
    client = StoreClient(valkey_url)
    yield ScriptRunner(client)
    await client.close()


async def _waiting(run: ScriptRunner, *owners: str) -> list[TurnName]:
    """Turns of the session "s": the first one has it, the others wait."""
    turns = []
    for number, owner in enumerate(owners):
        turn = run.name(session="s")
        assert await run.begin(turn, owner) == ("QUEUED" if number else "OWNED")
        turns.append(turn)
    return turns


async def _expire_grant(run: ScriptRunner, turn: TurnName) -> None:
    name = control_keys(turn.id, "", turn.session).session
    await run.client.ask(name, "HSET", name, "granted_until", 1)


async def test_an_end_grants_the_session_to_the_next_turn_and_wakes_its_owner(
    run: ScriptRunner,
) -> None:
    first, second, third = await _waiting(run, "o1", "o2", "o3")
    assert await run.grant(third, "o3") == "WAIT"
    await run.control.start(first, "s1", is_durable=False)
    await run.end(first, DONE)
    assert run.woken == [("o2", second.id)]
    assert await run.grant(third, "o3") == "WAIT"
    assert await run.grant(second, "o2") == "GRANTED"
    assert "granted_until" not in await run.session(second)


async def test_a_grant_that_is_not_taken_in_time_passes_to_the_next_turn(run: ScriptRunner) -> None:
    first, second, third = await _waiting(run, "o1", "o2", "o3")
    await run.control.release(first, b"")
    granted_until = int((await run.session(second))["granted_until"])
    assert 4000 < granted_until - time.time() * 1000 < 6000
    assert await run.grant(third, "o3") == "WAIT"
    await _expire_grant(run, second)
    assert await run.grant(third, "o3") == "GRANTED"
    # Late: it waits again, at the end.
    assert await run.grant(second, "o2") == "WAIT"
    with pytest.raises(Fenced):
        await run.control.start(second, "s1", is_durable=False)
    await run.control.release(third, b"")
    assert await run.grant(second, "o2") == "GRANTED"


async def test_a_grant_that_was_taken_does_not_pass(run: ScriptRunner) -> None:
    first, second, third = await _waiting(run, "o1", "o2", "o3")
    await run.control.release(first, b"")
    assert await run.grant(second, "o2") == "GRANTED"
    await _expire_grant(run, first)
    await run.control.start(second, "s1", is_durable=False)
    assert await run.grant(third, "o3") == "WAIT"


async def test_entries_of_dead_incarnations_are_skipped(run: ScriptRunner) -> None:
    first, _, _, fourth = await _waiting(run, "o1", "dead", "o2", "o2")
    await run.control.release(first, b"")
    assert await run.grant(fourth, "o2") == "WAIT"
    assert await run.grant(fourth, "o2", "dead") == "WAIT"
    assert (await run.session(first))["incarnation"] == "o2"


async def test_a_waiter_learns_which_processes_to_observe(run: ScriptRunner) -> None:
    turns = await _waiting(run, "o1", "o2", "o3", "o4")
    _, _, holder, watched = await run.control.grant(turns[2], "o3", (), "")
    assert holder.decode() == turns[0].id
    assert sorted(watched) == [b"o1", b"o2"]


@pytest.mark.parametrize("how", ["ended", "forgotten"])
async def test_a_holder_that_is_no_more_frees_the_session(run: ScriptRunner, how: str) -> None:
    first, second = await _waiting(run, "o1", "o2")
    name = control_keys(first.id).turn
    assert await run.grant(second, "o2", holder=first.id) == "WAIT"
    if how == "ended":
        await run.client.ask(name, "HSET", name, "state", DONE)
    else:
        await run.client.ask(name, "DEL", name)
    assert await run.grant(second, "o2", holder=first.id) == "GRANTED"


async def test_a_new_incarnation_keeps_its_place(run: ScriptRunner) -> None:
    first, second, _ = await _waiting(run, "o1", "o2", "o3")
    await run.control.renew(first, "new1")
    await run.control.renew(second, "new2")
    assert (await run.session(first))["incarnation"] == "new1"
    assert await run.grant(second, "new2", "o1", "o2") == "WAIT"
    await run.control.release(first, b"")
    assert run.woken == [("new2", second.id)]


async def test_fences_grow_although_the_store_has_lost_the_session(run: ScriptRunner) -> None:
    """As they begin with the time of the server."""
    fences = []
    for _ in range(5):
        [turn] = await _waiting(run, "o1")
        stored = await run.stored(turn)
        fences.append(stored.record.fence)
        assert stored.record.fence >= (time.time() - 60) * 1e6
        await run.control.release(turn, b"")
        if len(fences) == 3:
            for key in await run.keys():
                await run.client.ask(key, "DEL", key)
    assert fences == sorted(set(fences))


async def test_a_fence_is_remembered_as_long_as_its_turn(run: ScriptRunner) -> None:
    turn = run.name(session="s")
    await run.begin(turn, keep=7200.0)
    await run.control.start(turn, "s1", is_durable=False)
    await run.end(turn, DONE)
    keys = control_keys(turn.id, "", "s")
    kept = await run.client.ask(keys.turn, "PTTL", keys.turn)
    assert 7_190_000 < kept <= 7_200_000
    assert await run.client.ask(keys.session, "PTTL", keys.session) >= kept - 1000


async def test_many_turns_within_a_millisecond_have_fences_that_grow(run: ScriptRunner) -> None:
    fences = []
    for _ in range(30):
        [turn] = await _waiting(run, "o1")
        fences.append((await run.stored(turn)).record.fence)
        await run.control.release(turn, b"")
    assert fences == sorted(set(fences))


@pytest.mark.parametrize(("state", "settles"), [(LOST, True), (CANCELLED, True), (DONE, False)])
async def test_a_session_settles_after_a_turn_whose_work_may_go_on(
    run: ScriptRunner, state: int, settles: bool
) -> None:
    turn = run.name(session="s")
    await run.begin(turn, settle=500)
    await run.control.start(turn, "s1", is_durable=False)
    if state == CANCELLED:
        await run.control.cancel(turn)
    await run.end(turn, state)
    expected = "QUEUED" if settles else "OWNED"
    assert await run.begin(run.name(session="s")) == expected


async def test_quotas_count_what_has_not_ended_and_repair_themselves(run: ScriptRunner) -> None:
    quotas = Quotas(turns=2, stored=1000)
    first, second = run.name(), run.name()
    assert await run.begin(first, quotas=quotas) == "OWNED"
    assert await run.begin(second, quotas=quotas) == "OWNED"
    assert await run.begin(run.name(), quotas=quotas) == "OVER_QUOTA"
    await run.control.release(first, b"")
    third = run.name()
    assert await run.begin(third, quotas=quotas) == "OWNED"
    assert await run.begin(run.name(), quotas=quotas) == "OVER_QUOTA"
    # An owner that died without a trace: its turn is not renewed.
    use = control_keys(second.id).use
    await run.client.ask(use, "HSET", use, f"t{second.id}", 1)
    assert await run.begin(run.name(), quotas=quotas) == "OWNED"
    assert await run.client.ask(use, "HEXISTS", use, f"t{second.id}") == 0


async def test_stored_bytes_count_until_they_expire(run: ScriptRunner) -> None:
    quotas = Quotas(turns=10, stored=1000)
    turn = run.name()
    await run.begin(turn, quotas=quotas)
    await run.control.start(turn, "s1", is_durable=False)
    await run.end(turn, DONE, size=1000)
    await run.end(turn, DONE, size=1000)  # a repetition
    assert await run.begin(run.name(), quotas=quotas) == "OVER_QUOTA"
    use = control_keys(turn.id).use
    [bucket, size] = await run.client.ask(use, "HGETALL", use)
    assert int(size) == 1000 + 384  # of its record
    await run.client.ask(use, "HDEL", use, bucket)
    await run.client.ask(use, "HSET", use, "b1", 1000)
    assert await run.begin(run.name(), quotas=quotas) == "OWNED"


async def test_records_count_too(run: ScriptRunner) -> None:
    """Each new key leaves one, though its response is empty. A sixteenth of it counts."""
    quotas = Quotas(turns=10, stored=1000)

    async def execute(head: bytes = b"", *, is_released: bool = False) -> None:
        turn = run.name(key=secrets.token_hex(8))
        assert await run.begin(turn, quotas=quotas) == "OWNED"
        await run.control.start(turn, "s1", is_durable=False)
        await run.control.head(turn, head, is_stream=False, resume_path="")
        if is_released:
            await run.control.release(turn, b"")
        else:
            await run.end(turn, DONE, size=0)

    for _ in range(10):
        await execute(is_released=True)
    for _ in range(2):
        await execute()
    await execute(b"x" * 1024)
    assert await run.begin(run.name(), quotas=quotas) == "OVER_QUOTA"


async def test_without_a_replica_a_keyed_turn_is_not_started(valkey_url: str) -> None:
    """It could be forgotten in a failover, and executed again."""
    client = StoreClient(f"{valkey_url}?min_replicas=1")
    run = ScriptRunner(client)
    turn = run.name(key="k")
    await run.begin(turn)
    with pytest.raises(StoreAway):
        await run.control.start(turn, "s1", is_durable=True)
    await run.control.release(turn, b"")
    assert await run.begin(run.name(key="k")) == "OWNED"
    await client.close()


async def test_all_keys_of_a_script_lie_in_one_slot_and_expire(run: ScriptRunner) -> None:
    calls: list[list[str]] = []
    plain = run.client.run

    async def recorded(script: object, keys: list[str], args: object, **how: object) -> object:
        calls.append(list(keys))
        reply = await plain(script, keys, args, **how)  # type: ignore[arg-type]
        for key in await run.keys():
            assert await run.client.ask(key, "PTTL", key) > 0, key
            assert key in {one for call in calls for one in call}, key
        return reply

    run.client.run = recorded  # type: ignore[assignment, method-assign]
    first, second = run.name("k", "s"), run.name("l", "s")
    await run.begin(first)
    await run.begin(second)
    await run.begin(run.name("k", "s"))
    await run.control.start(first, "s1", is_durable=False)
    await run.control.head(first, b"h", is_stream=True, resume_path="/r", origin="https://a")
    await run.control.retry(first, "100")
    await run.control.orphan(first, "o1", first.nonce)
    await run.control.take_over(first, "o2", first.nonce)
    await run.control.fingerprint(first, "f")
    await run.control.renew(second, "o2")
    await run.end(first, LOST, size=10)
    await run.begin(run.name("k", "s"), repeats_lost=True, fingerprint="f")
    await run.grant(second, "o2")
    await run.control.cancel(second)
    await run.control.release(run.name("m", "s"), b"")
    for keys in calls:
        assert {key[key.index("{") : key.index("}") + 1] for key in keys} == {
            f"{{{run.principal[:16]}}}"
        }
