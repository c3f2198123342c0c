"""For test suites: balancers that record who served what, and servers that misbehave on demand.

The fixtures `balanced_servers` and `load_balancer` come with pytest's plugin. See docs/testing.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_lb.testing import faults
    from hermes_lb.testing.application import LOAD_BALANCER, balancer_context
    from hermes_lb.testing.balancer import WatchedBalancer, config_for
    from hermes_lb.testing.collected import PATIENCE, eventually
    from hermes_lb.testing.messages import Answer, Request, events
    from hermes_lb.testing.record import Record
    from hermes_lb.testing.rig import Rig
    from hermes_lb.testing.servers import Server

__all__ = [
    "LOAD_BALANCER",
    "PATIENCE",
    "Answer",
    "Record",
    "Request",
    "Rig",
    "Server",
    "WatchedBalancer",
    "balancer_context",
    "config_for",
    "events",
    "eventually",
    "faults",
]

_HOMES = {
    "LOAD_BALANCER": "application",
    "PATIENCE": "collected",
    "Answer": "messages",
    "Record": "record",
    "Request": "messages",
    "Rig": "rig",
    "Server": "servers",
    "WatchedBalancer": "balancer",
    "balancer_context": "application",
    "config_for": "balancer",
    "eventually": "collected",
    "events": "messages",
}


def __getattr__(name: str) -> Any:
    """Lazy: pytest's plugin is in this package, and most test runs do not use it."""
    if name == "faults":
        return import_module("hermes_lb.testing.faults")
    if name in _HOMES:
        return getattr(import_module(f"hermes_lb.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
