"""Does a server still send? Asked when a check has timed out: a busy server is not a dead one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.proxy.live import LiveConnections


def saw_progress(live: LiveConnections, now: float, server: Server, seconds: float) -> bool:
    """True if a response that `server` is in the middle of, or a tunnel to it, has brought bytes
    within `seconds`. It costs up to a microsecond for each of them."""
    return any(
        upstream.server is server
        and (silence := upstream.silence(now)) is not None
        and silence <= seconds
        for upstream in live.upstreams
    )
