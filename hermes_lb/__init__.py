"""A pure-Python asyncio load balancer for fleets of LLM-agent workers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_lb.balancer import LoadBalancer
    from hermes_lb.config import Config, ConfigError, load_config

__all__ = ["Config", "ConfigError", "LoadBalancer", "load_config"]


def __getattr__(name: str) -> Any:
    """Lazy: `check` needs no balancer, and many test runs need nothing."""
    if name == "LoadBalancer":
        return importlib.import_module("hermes_lb.balancer").LoadBalancer
    if name in __all__:
        return getattr(importlib.import_module("hermes_lb.config"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
