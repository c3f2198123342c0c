"""No proxy: the load straight to one upstream. The ceiling of what the load side can show."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.live.peers.base import Peer, Running, Setup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.live.bench import Bench


class Direct(Peer):
    name = "direct"
    install = ""
    has_tls = False
    has_websocket = False

    def is_installed(self) -> bool:
        return True

    def version(self) -> str:
        return "no proxy"

    def command(self, setup: Setup) -> list[str]:
        raise NotImplementedError

    @contextmanager
    def running(
        self,
        bench: Bench,
        upstreams: tuple[int, ...],
        *,
        tls: bool = False,
        cores: Sequence[int] = (),
    ) -> Iterator[Running]:
        yield Running(upstreams[0], None, None)
