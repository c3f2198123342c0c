"""Configuration: a TOML file or a mapping -> `Config`; every problem is reported at once."""

from hermes_lb.config.loader import load_config
from hermes_lb.config.models import (
    Admin,
    Backend,
    Config,
    CookieAffinity,
    Frontend,
    Health,
    Limits,
    Log,
    Outlier,
    Pins,
    Process,
    Route,
    Server,
    Stick,
    StrategyOptions,
    Timeouts,
    status_range,
)
from hermes_lb.config.problems import ConfigError, Problem
from hermes_lb.config.units import Address

__all__ = [
    "Address",
    "Admin",
    "Backend",
    "Config",
    "ConfigError",
    "CookieAffinity",
    "Frontend",
    "Health",
    "Limits",
    "Log",
    "Outlier",
    "Pins",
    "Problem",
    "Process",
    "Route",
    "Server",
    "Stick",
    "StrategyOptions",
    "Timeouts",
    "load_config",
    "status_range",
]
