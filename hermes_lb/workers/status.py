"""One line for `systemctl status` (STATUS= of sd_notify(3))."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.backends import Pool


def in_words(
    pools: Iterable[Pool],
    *,
    serving: int,
    slots: int,
    is_upgrading: bool = False,
    refused: str = "",
) -> str:
    """Such as "2 workers, 11 of 12 servers up": `serving` workers of `slots` accept clients.

    `refused` is why the last reload failed; its first line is shown.
    """
    servers = [server for pool in pools for server in pool.servers]
    up = sum(server.state == "up" for server in servers)
    workers = f"{serving}" if serving == slots else f"{serving} of {slots}"
    parts = [
        "upgrading" if is_upgrading else "",
        f"{workers} worker{'s' * (slots != 1)}, {up} of {len(servers)} servers up",
        refused and f"reload refused: {refused.splitlines()[0]}",
    ]
    return "; ".join(filter(None, parts))
