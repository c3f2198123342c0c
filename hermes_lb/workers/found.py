"""The servers of discoveries in a message or in an inheritance, as `SharedState.discovered`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.backends.options import DiscoveredServer

if TYPE_CHECKING:
    from collections.abc import Mapping


def found_in(written: Mapping[str, list[Any]]) -> dict[str, dict[str, DiscoveredServer]]:
    """By backend and name."""
    return {
        backend: {one["name"]: DiscoveredServer.model_validate(one) for one in servers}
        for backend, servers in written.items()
    }
