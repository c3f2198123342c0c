"""Configuration: a TOML file or a mapping -> `Config`; every problem is reported at once.

loader       `load_config`: a file or a mapping -> a Config, or all that is wrong with it
source       a file's bytes -> its tables; `lines`: on which line a key stands
environment  `${NAME}` in its strings; `secret_files`: secrets in files of their own
models       the whole; its sections are in process, frontend, route and backend
match        what a route asks of a request; `rewrites`: what it changes
own          what a route or a backend has of its own, in the place of the global ones
error_pages  pages in the place of error texts, with their files
references   names that must exist, or be distinct; routes out of reach
explain      pydantic's errors in words for people; `allowed`: what a key accepts;
             `editor_schema`: that for editors, with a description for each key
changes      what differs between two configurations
runtime      servers that operators add, remove and change; `dump`: values and their origins
token        the admin listener's token; `admin_tls`: its TLS

Servers, strategies, affinity and probes declare their own options, by `hermes_lb.options`;
`backend` puts these together, so this package is above theirs, which do not know it.
"""

from hermes_lb.backends.options import Outlier, Server, ServerTls
from hermes_lb.config.backend import Backend
from hermes_lb.config.error_pages import ErrorPage
from hermes_lb.config.frontend import Bind, Certificate, Frontend, Tls
from hermes_lb.config.loader import load_config
from hermes_lb.config.match import Condition, Match
from hermes_lb.config.models import Config
from hermes_lb.config.own import OwnLimits, OwnLog, OwnTimeouts
from hermes_lb.config.process import Admin, AdminTls, Limits, Log, Process, Timeouts
from hermes_lb.config.rewrites import CorsOptions, RequestHeaders, ResponseHeaders, Return
from hermes_lb.config.route import Route
from hermes_lb.options.problems import ConfigError, Problem
from hermes_lb.options.units import Address, UnixAddress, status_range

__all__ = [
    "Address",
    "Admin",
    "AdminTls",
    "Backend",
    "Bind",
    "Certificate",
    "Condition",
    "Config",
    "ConfigError",
    "CorsOptions",
    "ErrorPage",
    "Frontend",
    "Limits",
    "Log",
    "Match",
    "Outlier",
    "OwnLimits",
    "OwnLog",
    "OwnTimeouts",
    "Problem",
    "Process",
    "RequestHeaders",
    "ResponseHeaders",
    "Return",
    "Route",
    "Server",
    "ServerTls",
    "Timeouts",
    "Tls",
    "UnixAddress",
    "load_config",
    "status_range",
]
