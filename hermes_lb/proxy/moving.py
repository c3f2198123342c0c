"""Moves requests away from a server that its active checks have marked down.

    move     a stream that can be resumed: its connection is aborted, and another server continues
    retry    a request that waits for a response head: by the retry table, or as part of a search
    cut      everything else: tunnels, responses that cannot be resumed

Streams and their searches leave a server that stands still: its checks timed out, and none of its
responses made progress meanwhile. Its connections may stay open for long (a stopped process, a dead
network), so without this each would wait for `timeouts.server`. With `on_marked_down =
"shutdown_sessions"` all requests leave, whatever the reason why the server is down.

Later bytes of the old server are not passed on, and its later writes are rejected by the fence of
the session's next holder, as in any takeover. A stream leaves only while another server has room
for it. Until then, or until the server is up again, it stays where it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from hermes_lb.proxy import phases
from hermes_lb.proxy.abandoned import Abandoned
from hermes_lb.proxy.exchange import Exchange

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server
    from hermes_lb.proxy.context import Context

    Running: TypeAlias = Exchange | Abandoned

# Requests that leave in one loop iteration, and seconds until the next ones: 2,000 a second. Each
# may mean a dial, and work for another server; clients that are cut reconnect.
AT_ONCE, _EVERY = 20, 0.01
# Seconds until the next look while no other server has room.
_NEXT_LOOK = 0.5


async def leave_server(
    context: Context, pool: Pool, server: Server, *, shuts_down: bool = False
) -> None:
    """Return when the requests on `server` have left it or ended, or the server is up again.

    Without `shuts_down` only streams that can be resumed, and their searches, leave.
    """
    left = deque(_running_on(context, server))
    while left and not server.is_up:
        context.batch.flush()
        staying: list[Running] = []
        moved = 0
        while left and moved < AT_ONCE:
            running = left.popleft()
            if isinstance(running, Abandoned):
                if shuts_down and not running.is_over:
                    running.shut_down()
                    moved += 1
            elif not _still_runs_on(running, server):
                continue
            elif running.phase == phases.HELD or (
                _is_resumable(running) and not _has_other(pool, server, context.clock())
            ):
                staying.append(running)
            elif shuts_down or _is_resumable(running) or _is_search(running):
                _leave(running, server)
                moved += 1
        left.extend(staying)
        await asyncio.sleep(_EVERY if moved else _NEXT_LOOK)


def _running_on(context: Context, server: Server) -> list[Running]:
    running: list[Running] = [
        exchange
        for client in context.live.all_held()
        for exchange in client.exchanges()
        if isinstance(exchange, Exchange) and exchange.server is server
    ]
    running += [
        upstream.sink
        for upstream in context.live.upstreams
        if upstream.server is server and isinstance(upstream.sink, Abandoned)
    ]
    return running


def _still_runs_on(exchange: Exchange, server: Server) -> bool:
    """In FLUSH the server has done its part; without a lease the next server is looked for."""
    return (
        exchange.server is server
        and exchange.lease is not None
        and exchange.phase not in (phases.FLUSH, phases.END)
    )


def _is_resumable(exchange: Exchange) -> bool:
    """True in a stream that another server can continue."""
    in_body = exchange.phase in (phases.DATA, phases.DATA_SLOW)
    return in_body and exchange.stream is not None and exchange.stream.can_go_on


def _is_search(exchange: Exchange) -> bool:
    """True while this server is asked to continue a stream."""
    return exchange.stream is not None and exchange.phase < phases.DATA


def _leave(exchange: Exchange, server: Server) -> None:
    reason = f"{server.name} is down"
    if _is_resumable(exchange):
        assert exchange.stream is not None
        exchange.stream.server_lost(reason, "moved")
    else:
        exchange.server_marked_down(reason)


def _has_other(pool: Pool, server: Server, now: float) -> bool:
    return any(other is not server and other.can_take(now) for other in pool.servers)
