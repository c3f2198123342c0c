"""Streams that can be resumed leave a server that stands still.

Active checks have found it: they timed out, none of its responses has moved meanwhile, and it is
down. Its connections may live for long yet (a stopped process, a dead network), so without this
each stream would wait for `timeouts.server`.

A stream that leaves aborts its connection first, so nothing that the old server sends later is
passed on. What the old server does later is fenced by the session's next one, as in any takeover. A
stream leaves only while another server has room for it. Until then, or until the server is up
again, it stays where it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hermes_lb.proxy.exchange import Exchange

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import ServerSide
    from hermes_lb.proxy.resume import EventStream

# Streams that leave in one turn of the loop, and seconds until the next ones: 2,000 a second. Each
# means a dial, and work for another server.
AT_ONCE, _EVERY = 20, 0.01
# Seconds until it is tried again when no other server has room.
_NEXT_LOOK = 0.5


async def move_streams(context: Context, pool: Pool, server: Server) -> None:
    """Until all streams that `server` has now are elsewhere or over, or it is up again."""
    left = {
        upstream: stream
        for upstream in context.upstreams
        if upstream.server is server and (stream := _movable(upstream)) is not None
    }
    while left and not server.is_up:
        context.batch.flush()
        moved = 0
        for upstream, stream in list(left.items()):
            if moved == AT_ONCE or not _has_other(pool, server, context.clock()):
                break
            del left[upstream]
            if _movable(upstream) is stream:  # else it is over
                stream.server_lost(f"{server.name} stands still", "moved")
                moved += 1
        await asyncio.sleep(_EVERY if moved else _NEXT_LOOK)


def _has_other(pool: Pool, server: Server, now: float) -> bool:
    return any(other is not server and other.can_take(now) for other in pool.servers)


def _movable(upstream: ServerSide) -> EventStream | None:
    """The stream in the middle of which it is, if another server can go on with that."""
    exchange = upstream.sink
    if upstream.body is None or not isinstance(exchange, Exchange):
        return None
    stream = exchange.stream
    return stream if stream is not None and stream.can_go_on else None
