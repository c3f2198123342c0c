"""A store that acknowledges a turn's events slowly: its server waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.transport.endpoint import SHARE
from tests.support.turns import LAST_CHUNK, Gateway, begin_stream, events, post, turn_of
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.stage import Stage


async def test_a_server_waits_for_a_store_that_is_behind(stage: Stage) -> None:
    origin = await stage.origin()
    gateway = await Gateway.before(stage, origin)
    _, at_origin, head = await begin_stream(gateway, origin, post(key="k"))
    journal = gateway.shared.turns[turn_of(head)].journal
    assert journal is not None
    journal.holds_back = True
    (upstream,) = (each for each in gateway.lb._context.live.upstreams if each.sink is not None)

    def is_paused() -> bool:
        return bool(upstream._paused_by & ~SHARE)

    for _ in range(4):
        await at_origin.send(events("x" * 60_000))
    await until(lambda: journal.unacknowledged > 4 * 60_000)
    assert not is_paused()
    await at_origin.send(events("x" * 60_000))
    await until(is_paused)
    journal.flush()
    assert not is_paused()
    await at_origin.send(LAST_CHUNK)
    await gateway.in_state(turn_of(head), "done")
