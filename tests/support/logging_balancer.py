"""A balancer whose log is read when it has ended, in any format; `Stage` reads httplog only."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from hermes_lb import LoadBalancer
from tests.support.stage import configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.origin import Origin


@asynccontextmanager
async def logging_balancer(
    path: Path,
    *origins: Origin | int,
    backend: dict[str, Any] | None = None,
    frontend: dict[str, Any] | None = None,
    timeouts: dict[str, Any] | None = None,
    **log: Any,
) -> AsyncIterator[LoadBalancer]:
    """One before agent1, agent2, ...; `log`: keys of the table. The file is whole behind it."""
    config = configuration(
        origins,
        backend=backend,
        frontend={"http2": True, **(frontend or {})},  # for clients of either version
        timeouts=timeouts,
        admin={"enabled": False},
        log={"access": str(path), **log},
    )
    async with LoadBalancer(config) as lb:
        yield lb
