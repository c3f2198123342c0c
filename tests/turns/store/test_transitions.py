"""The scripts make the transitions of states.py, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.ports import Fenced
from hermes_lb.turns.states import (
    CANCELLED,
    CANCELLING,
    DONE,
    ENDED,
    FOLLOWED_BY,
    LOST,
    NAMES,
    RELEASED,
    RUNNING,
    WAITING,
)
from hermes_lb.turns.store.client import StoreClient
from tests.support.turn_control import ScriptRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hermes_lb.turns.store.keys import TurnName

    Script = Callable[[ScriptRunner, TurnName], Awaitable[object]]

# Each script that may change the state, and the states that it may lead to.
SCRIPTS: dict[str, tuple[Script, tuple[int, ...]]] = {
    "grant": (lambda run, turn: run.grant(turn), ()),
    "start": (lambda run, turn: run.control.start(turn, "s1", is_durable=False), (RUNNING,)),
    "fingerprint": (lambda run, turn: run.control.fingerprint(turn, "f"), ()),
    "head": (
        lambda run, turn: run.control.head(turn, b"h", is_stream=True, resume_path="/r"),
        (),
    ),
    "retry": (lambda run, turn: run.control.retry(turn, "100"), ()),
    "done": (lambda run, turn: run.end(turn, DONE), (DONE,)),
    "lost": (lambda run, turn: run.end(turn, LOST), (LOST,)),
    "cancelled": (lambda run, turn: run.end(turn, CANCELLED), (CANCELLED,)),
    "lose": (lambda run, turn: run.control.lose(turn, "o1", "died", "n"), (LOST, RELEASED)),
    "release": (
        lambda run, turn: run.control.release(turn, b"answer"),
        (RELEASED, CANCELLED),  # CANCELLED: a client has asked for it
    ),
    "cancel": (lambda run, turn: run.control.cancel(turn), (CANCELLING, CANCELLED)),
    "renew": (lambda run, turn: run.control.renew(turn, "o2"), ()),
    # Refused here: none of these turns has a resume path.
    "orphan": (lambda run, turn: run.control.orphan(turn, "o1", "n"), ()),
    "take_over": (lambda run, turn: run.control.take_over(turn, "o2", "n"), ()),
}
# How a turn gets into a state.
PATHS: dict[int, tuple[str, ...]] = {
    WAITING: (),
    RUNNING: ("start",),
    CANCELLING: ("start", "cancel"),
    DONE: ("start", "done"),
    LOST: ("start", "lost"),
    CANCELLED: ("start", "cancel", "cancelled"),
    RELEASED: ("release",),
}
# Two transitions in one script: the last client of a turn has left, and none has cancelled it.
SHORTCUTS = {(RUNNING, CANCELLED): CANCELLING}
# What an owner may write without a change of the state.
WRITES = {
    "grant": {WAITING},
    "start": {RUNNING},
    "fingerprint": {WAITING, RUNNING, CANCELLING},
    "head": {RUNNING, CANCELLING},
    "retry": {RUNNING, CANCELLING},
    "renew": set(range(len(NAMES))),
}


@pytest.fixture
async def run(valkey_url: str) -> AsyncIterator[ScriptRunner]:
    client = StoreClient(valkey_url)
    yield ScriptRunner(client)
    await client.close()


async def _turn_in(run: ScriptRunner, state: int) -> TurnName:
    turn = run.name(key="k", session="s")
    assert await run.begin(turn, settle=0.001) == "OWNED"
    for name in PATHS[state]:
        await SCRIPTS[name][0](run, turn)
    assert await run.state(turn) == state
    return turn


@pytest.mark.parametrize("state", FOLLOWED_BY, ids=NAMES.__getitem__)
async def test_a_script_makes_a_transition_of_the_table_or_is_refused(
    run: ScriptRunner, state: int
) -> None:
    reached = set()
    for name, (script, targets) in SCRIPTS.items():
        run.principal = ScriptRunner(run.client).principal
        turn = await _turn_in(run, state)
        before = await run.contents()
        refused = False
        try:
            await script(run, turn)
        except Fenced:
            refused = True
        after = await run.state(turn)
        reached.add(after)
        possible = set(FOLLOWED_BY[state]) | {last for first, last in SHORTCUTS if first == state}
        if after != state:
            assert after in possible & set(targets), f"{name}: {NAMES[state]} -> {NAMES[after]}"
            assert not refused
        elif refused:
            assert await run.contents() == before, f"{name} was refused, and has changed something"
            assert state not in WRITES.get(name, ())
        else:
            # Neither refused nor a transition: a repetition, or a write in the state.
            assert state in targets or state in WRITES.get(name, ()) or name == "cancel"
    missing = set(FOLLOWED_BY[state]) - reached
    assert not missing, f"no script leads from {NAMES[state]} to {missing}"


@pytest.mark.parametrize("state", FOLLOWED_BY, ids=NAMES.__getitem__)
async def test_another_nonce_changes_nothing(run: ScriptRunner, state: int) -> None:
    turn = await _turn_in(run, state)
    before = await run.contents()
    zombie = turn._replace(nonce="another")
    for name, (script, _) in SCRIPTS.items():
        if name != "cancel":  # by a client, without a nonce
            with pytest.raises(Fenced):
                await script(run, zombie)
            assert await run.contents() == before, name


async def test_a_turn_without_an_owner_is_taken_over_once(run: ScriptRunner) -> None:
    turn = await _turn_in(run, RUNNING)
    for owner, nonce in (("o1", turn.nonce), ("another", "n")):
        with pytest.raises(Fenced):
            await run.control.orphan(turn, owner, nonce)  # it has no resume path
    await SCRIPTS["head"][0](run, turn)
    with pytest.raises(Fenced):
        await run.control.orphan(turn, "another", "n1")
    with pytest.raises(Fenced):
        await run.control.take_over(turn, "o2", "n2")  # it has an owner
    for _ in range(2):  # a repetition, after a lost reply
        await run.control.orphan(turn, "o1", "n1")
    orphan = turn._replace(nonce="n1")
    for _ in range(2):
        await run.control.take_over(orphan, "o2", "n2")
    before = await run.contents()
    for refused in (
        run.control.take_over(orphan, "o3", "n2"),
        run.control.take_over(orphan, "o3", "n3"),
        run.control.orphan(turn, "o1", "n1"),
        run.control.orphan(orphan, "", "n1"),
        run.control.start(turn, "s2", is_durable=False),
    ):
        with pytest.raises(Fenced):
            await refused
    assert await run.contents() == before
    mine = turn._replace(nonce="n2")
    await run.control.start(mine, "s2", is_durable=False)  # its session is its own, too
    await run.end(mine, DONE)
    assert await run.state(mine) == DONE


@pytest.mark.parametrize("state", FOLLOWED_BY, ids=NAMES.__getitem__)
async def test_another_principal_changes_nothing(run: ScriptRunner, state: int) -> None:
    turn = await _turn_in(run, state)
    before = await run.contents()
    foreign = turn._replace(principal=turn.principal[:16] + "another   ")
    for name, (script, _) in SCRIPTS.items():
        try:
            await script(run, foreign)
        except Fenced:
            pass
        else:
            assert name in ("cancel", "release")
        assert await run.contents() == before, name


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_repetition_changes_nothing(run: ScriptRunner, name: str) -> None:
    """Its first reply may have been lost."""
    script = SCRIPTS[name][0]
    for state in FOLLOWED_BY:
        run.principal = ScriptRunner(run.client).principal
        turn = await _turn_in(run, state)
        try:
            await script(run, turn)
        except Fenced:
            continue
        before = await run.contents()
        try:
            await script(run, turn)
        except Fenced:
            # The observer of a death has given it another nonce.
            assert name == "lose"
        assert await run.contents() == before


async def test_begin_is_idempotent_by_nonce(run: ScriptRunner) -> None:
    first, second = run.name(key="k", session="s"), run.name(session="s")
    assert await run.begin(first) == "OWNED"
    assert await run.begin(second) == "QUEUED"
    before = await run.contents()
    for _ in range(2):
        assert await run.begin(first) == "OWNED"
        assert await run.begin(second) == "QUEUED"
        assert await run.begin(run.name(key="k", session="s")) == "JOINED"
    assert await run.contents() == before


async def test_a_begin_that_was_given_up_does_not_begin_later(run: ScriptRunner) -> None:
    turn = run.name(key="k", session="s")
    await run.control.release(turn, b"")
    assert await run.begin(turn) == "GONE"
    other = run.name(key="k", session="s")
    assert await run.begin(other) == "OWNED"
    await run.control.release(turn, b"")
    assert await run.state(other) == WAITING


async def test_a_stale_death_ends_nothing(run: ScriptRunner) -> None:
    """The owner has taken a new incarnation since."""
    turn = await _turn_in(run, RUNNING)
    await run.control.renew(turn, "o2")
    with pytest.raises(Fenced):
        await run.control.lose(turn, "o1", "died", "n")
    assert await run.state(turn) == RUNNING
    await run.control.lose(turn, "o2", "died", "n")
    stored = await run.stored(turn)
    assert (stored.record.state, stored.record.reason, stored.nonce) == (LOST, "died", "n")
    with pytest.raises(Fenced):
        await run.end(turn, DONE)


@pytest.mark.parametrize("state", sorted(ENDED))
async def test_the_key_of_an_ended_turn(run: ScriptRunner, state: int) -> None:
    await _turn_in(run, state)
    expected = "OWNED" if state == RELEASED else "JOINED"
    assert await run.begin(run.name(key="k")) == expected
