"""What runs on a server leaves it when its active checks have marked it down.

    move     a stream that can be resumed: its connection is aborted, and it goes on elsewhere
    retry    a request that waits for a response head: by the retry table, or as a search goes on
    cut      everything else: tunnels, responses that cannot be resumed

Streams and their searches leave a server that stands still: its checks timed out, and none of its
responses has moved meanwhile. Its connections may live for long yet (a stopped process, a dead
network), so without this each would wait for `timeouts.server`. With `on_marked_down =
"shutdown_sessions"` everything leaves, whatever the reason why the server is down.

What the old server sends later is not passed on, and what it does later is fenced by the session's
next one, as in any takeover. A stream leaves only while another server has room for it. Until then,
or until the server is up again, it stays where it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from hermes_lb.proxy.abandoned import Detached

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.exchange import Exchange

# Requests that leave in one loop iteration, and seconds until the next ones: 2,000 a second. Each
# may mean a dial, and work for another server; clients that are cut connect again.
AT_ONCE, _EVERY = 20, 0.01
# Seconds until the next look while no other server has room.
_NEXT_LOOK = 0.5


async def leave_server(
    context: Context, pool: Pool, server: Server, *, shuts_down: bool = False
) -> None:
    """Return when all that runs on `server` now has left it or is over, or the server is up again.

    Without `shuts_down` only streams that can be resumed, and their searches, leave.
    """
    left = deque(_running_on(context, server))
    while left and not server.is_up:
        context.turn.finish()
        staying: list[Exchange | Detached] = []
        moved = 0
        while left and moved < AT_ONCE:
            running = left.popleft()
            if not _still_runs_on(running, server):
                continue
            if _awaits_pin(running) or (
                _is_resumable(running) and not _has_other(pool, server, context.clock())
            ):
                staying.append(running)
            elif shuts_down or _is_resumable(running) or _is_search(running):
                _leave(running, server)
                moved += 1
        left.extend(staying)
        await asyncio.sleep(_EVERY if moved else _NEXT_LOOK)


def _running_on(context: Context, server: Server) -> list[Exchange | Detached]:
    running: list[Exchange | Detached] = [
        client.exchange
        for client in context.clients
        if client.exchange is not None and client.exchange.server is server
    ]
    running += [
        upstream.exchange
        for upstream in context.upstreams
        if upstream.home.server is server and isinstance(upstream.exchange, Detached)
    ]
    return running


def _still_runs_on(running: Exchange | Detached, server: Server) -> bool:
    if isinstance(running, Detached):
        return not running.is_over
    # In L the server has done its part, and without a lease the next one is looked for.
    return running.server is server and running.lease is not None and running.phase in "CHDT"


def _is_resumable(running: Exchange | Detached) -> bool:
    """It is in the middle of a stream that another server can go on with."""
    if isinstance(running, Detached) or running.stream is None:
        return False
    return running.phase == "D" and running.stream.can_go_on


def _is_search(running: Exchange | Detached) -> bool:
    """It asks this server to go on with a stream."""
    return (
        not isinstance(running, Detached) and running.stream is not None and running.phase in "CH"
    )


def _awaits_pin(running: Exchange | Detached) -> bool:
    """Its response head is held until its session is known (`UpstreamConnection.hold`)."""
    if isinstance(running, Detached) or running.stream is not None:
        return False
    return running.phase == "H" and running.response_at >= 0.0


def _leave(running: Exchange | Detached, server: Server) -> None:
    reason = f"{server.name} is down"
    if isinstance(running, Detached):
        running.cut()
    elif _is_resumable(running):
        assert running.stream is not None
        running.stream.server_lost(reason, "moved")
    else:
        running.server_marked_down(reason)


def _has_other(pool: Pool, server: Server, now: float) -> bool:
    return any(other is not server and other.can_take(now) for other in pool.servers)
