"""`probe = "tcp"`: a connection, with the TLS handshake and the PROXY header that requests have.

HAProxy's `check` without `option httpchk`. It says that a process listens, not that it works: for
servers without a health page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hermes_lb.health.probes.base import Finding, Probe, ProbeOptions

if TYPE_CHECKING:
    from hermes_lb.backends.dialing import ServerDialer


class TcpOptions(ProbeOptions):
    probe: Literal["tcp"] = "tcp"


class TcpProbe(Probe):
    options = TcpOptions

    def __init__(self, options: TcpOptions) -> None:
        from hermes_lb.health.probes.connection import connect  # see `http`

        self._connect = connect

    async def check(self, dialer: ServerDialer) -> Finding:
        await self._connect(dialer)
        return Finding(True, "connected")
