"""A turn is not taken from a holder with a recent heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.sessions import Grant, NotTaken, SessionStore, new_nonce
from tests.support.agent.sessions import ME, begin, commit, lose_lease, unchanged, user

if TYPE_CHECKING:
    from tests.support.agent.sessions import Backend


async def test_only_a_silent_holder_loses_its_turn(store: SessionStore, backend: Backend) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    turn = str(grant.lease.fence)
    async with unchanged(backend, sid):
        held = await store.take_over(sid, ME, turn, nonce=new_nonce(), silent_s=3600)
    assert isinstance(held, NotTaken)
    assert held.held_s is not None
    assert 0 < held.held_s <= 3600
    await commit(store, grant, user("still here"))
    await lose_lease(backend, sid)
    taken = await store.take_over(sid, ME, turn, nonce=new_nonce(), silent_s=3600)
    assert isinstance(taken, Grant)
    assert taken.lease.fence > grant.lease.fence


async def test_a_turn_that_was_handed_over_is_free_at_once(store: SessionStore, sid: str) -> None:
    """Its lease refuses other messages, but not a takeover."""
    grant = await begin(store, sid)
    await store.hand_over(grant.lease, kept_s=3600)
    turn = str(grant.lease.fence)
    taken = await store.take_over(sid, ME, turn, nonce=new_nonce(), silent_s=3600)
    assert isinstance(taken, Grant)
