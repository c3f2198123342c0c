"""Is it well: active checks, and what makes of them a verdict."""

from hermes_lb.health.checker import HealthChecker
from hermes_lb.health.rise_fall import RiseFall

__all__ = ["HealthChecker", "RiseFall"]
