"""`probe = "grpc"`: `grpc.health.v1.Health/Check`, as in Envoy's `grpc_health_check`.

It needs `protocol = "h2"`. Two messages of protocol buffers are written and read by hand:

    HealthCheckRequest   1: service, a string
    HealthCheckResponse  1: status, an enum: 0 UNKNOWN, 1 SERVING, 2 NOT_SERVING, 3 SERVICE_UNKNOWN
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hermes_lb.health.probes.base import Finding, NoAnswer, Probe, ProbeOptions
from hermes_lb.health.probes.http import USER_AGENT
from hermes_lb.options.patterns import pattern

if TYPE_CHECKING:
    from hermes_lb.backends.dialing import ServerDialer

_SERVICE = pattern(r"^[\x21-\x7e]{0,100}$", 'a service such as "agents.v1.Agents", or ""')

_SERVING = b"\x08\x01"  # field 1, varint: 1
_STATES = {b"": "UNKNOWN", b"\x08\x00": "UNKNOWN", b"\x08\x02": "NOT_SERVING"}
_UNIMPLEMENTED = "12"


def message(payload: bytes) -> bytes:
    """As gRPC frames it: not compressed."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


class GrpcOptions(ProbeOptions):
    """`service`: empty for the server as a whole."""

    probe: Literal["grpc"] = "grpc"
    service: str = Field("", pattern=_SERVICE)

    needs_http2: ClassVar[bool] = True


class GrpcProbe(Probe):
    options = GrpcOptions

    def __init__(self, options: GrpcOptions) -> None:
        # Here, as a configuration is validated without asyncio.
        from hermes_lb.health.probes.connection_http2 import ask_http2

        self._ask = ask_http2
        service = options.service.encode()
        self._message = message(b"\x0a%c%b" % (len(service), service) if service else b"")

    async def check(self, dialer: ServerDialer) -> Finding:
        fields = [
            (b":method", b"POST"),
            (b":path", b"/grpc.health.v1.Health/Check"),
            (b":authority", dialer.host.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"user-agent", USER_AGENT.encode()),
        ]
        answer = await self._ask(dialer, fields, self._message)
        if answer.status != 200:
            return Finding(False, f"{answer.status}, expected 200")
        status = answer.header("grpc-status")
        if status != ["0"]:
            if status == [_UNIMPLEMENTED]:
                return Finding(False, "it does not have grpc.health.v1 (status 12)")
            return Finding(False, f"gRPC status {', '.join(status) or 'is missing'}")
        if answer.body[:5] != message(answer.body[5:])[:5]:
            raise NoAnswer("no valid answer of grpc.health.v1")
        state = answer.body[5:]
        if state == _SERVING:
            return Finding(True, "SERVING")
        return Finding(False, _STATES.get(state, "an unknown state"))
