"""All kinds of probes, by their name in `probe`. A new one is a file and an entry here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.health.probes.grpc import GrpcProbe
from hermes_lb.health.probes.http import HttpProbe
from hermes_lb.health.probes.tcp import TcpProbe

if TYPE_CHECKING:
    from hermes_lb.health.probes.base import Probe

PROBES: Final[dict[str, type[Probe]]] = {"http": HttpProbe, "tcp": TcpProbe, "grpc": GrpcProbe}

DEFAULT: Final = "http"
