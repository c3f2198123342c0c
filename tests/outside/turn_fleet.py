"""Two balancers over one store, with a route whose requests are turns."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

ADA = {"Authorization": "Bearer ada"}
BOB = {"Authorization": "Bearer bob"}


class Fleet(NamedTuple):
    one: LoadBalancer
    two: LoadBalancer


async def two_balancers(
    stage: Stage,
    folder: Path,
    store_url: str,
    *ports: int,
    path_prefix: str = "/",
    route: dict[str, Any] | None = None,
    **turns: Any,
) -> Fleet:
    """`turns`: options of the route's table; `route`: of the route itself."""
    secret = folder / "secret"
    if not secret.exists():
        secret.write_text("of this test only " * 4)
        secret.chmod(0o600)
    options = {"settle": "0s", "keep": "5m", "keep_events": "5m", **turns}
    routed = {"path_prefix": path_prefix, "backend": "agents", **(route or {}), "turns": options}
    config = {
        "frontend": {"routes": [routed]},
        "store": {"url": store_url, "secret_file": str(secret)},
    }
    one = await stage.balancer(*ports, **config)
    two = await stage.balancer(*ports, **config)
    return Fleet(one, two)


class Relay:
    """One address before several: connections go to them in turn, and can be cut."""

    def __init__(self, targets: Sequence[int]) -> None:
        self.url = ""
        self._targets = itertools.cycle(targets)
        self._writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        """All connections, visibly."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_target, to_target = await asyncio.open_connection("127.0.0.1", next(self._targets))
        self._writers += [writer, to_target]
        await asyncio.gather(_copy(reader, to_target), _copy(from_target, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def relaying(*balancers: LoadBalancer) -> AsyncIterator[Relay]:
    relay = Relay([int(each.url.rpartition(":")[2]) for each in balancers])
    server = await asyncio.start_server(relay.take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    relay.url = f"http://127.0.0.1:{port}"
    async with server:
        yield relay
        relay.cut()
