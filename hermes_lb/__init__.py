"""A pure-Python asyncio load balancer for fleets of LLM-agent workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.config import Config, ConfigError, load_config

if TYPE_CHECKING:
    from hermes_lb.balancer import LoadBalancer

__all__ = ["Config", "ConfigError", "LoadBalancer", "load_config"]


def __getattr__(name: str) -> Any:
    """The balancer with all that it needs is loaded when asked for: `check` needs none of it."""
    if name == "LoadBalancer":
        from hermes_lb.balancer import LoadBalancer

        return LoadBalancer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
