"""The sections about servers: backends, with the options of strategy, affinity and probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from hermes_lb.affinity.cookie import CookieOptions
from hermes_lb.affinity.keys import KeyOptions
from hermes_lb.affinity.stores.registry import TableOptions
from hermes_lb.balancing import STRATEGIES, StrategyOptions
from hermes_lb.health.probes.base import ProbeOptions
from hermes_lb.health.probes.registry import DEFAULT as DEFAULT_PROBE
from hermes_lb.health.probes.registry import PROBES
from hermes_lb.options.kinds import Kinds
from hermes_lb.options.section import COOKIE_VALUE, Name, Section
from hermes_lb.options.units import (
    Address,
    Duration,
    Endpoint,
    PositiveDuration,
    ServerName,
    UnixAddress,
)


class Outlier(Section):
    """Envoy's outlier detection: a server that fails while others do not is ejected for a time."""

    consecutive_failures: int = Field(5, ge=0, le=1_000_000)
    failure_share: float = Field(0.85, ge=0.0, le=1.0)
    min_requests: int = Field(50, ge=1, le=1_000_000)
    interval: PositiveDuration = 10.0
    ejection_time: PositiveDuration = 30.0
    max_ejection_time: PositiveDuration = 300.0


class ServerTls(Section):
    """TLS to the servers of a backend: HAProxy's `server ... ssl`, nginx's `proxy_ssl_*`."""

    verify: bool = True
    ca: str | None = Field(None, min_length=1)
    server_name: ServerName | None = None
    certificate: str | None = Field(None, min_length=1)
    key: str | None = Field(None, min_length=1)
    min_version: Literal["1.2", "1.3"] = "1.2"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("key belongs to a certificate: give that, too")
        if self.ca is not None and not self.verify:
            raise ValueError("with verify = false ca is not used: remove one of them")
        return self


def _tls_table(value: object) -> object:
    """`tls = true` stands for a table in which nothing is set."""
    if isinstance(value, bool):
        return {} if value else None
    return value


OptionalTls = Annotated[
    ServerTls | None,
    BeforeValidator(_tls_table, json_schema_input_type=ServerTls | bool | None),
]

# A server at an address of a host name has "-" and at most 39 characters after its name, of the 64
# that a name may have.
_NAME_TO_RESOLVE_MAX = 24


class Server(Section):
    """One server, or with `resolve` one at each address of a host name."""

    name: Name
    address: Endpoint
    server_name: ServerName | None = None
    resolve: PositiveDuration | None = None
    weight: int = Field(1, ge=1, le=65_535)
    max_connections: int = Field(0, ge=0)
    max_fails: int = Field(3, ge=0, le=1_000_000)
    fail_timeout: Duration = 30.0
    slow_start: Duration = 0.0
    backup: bool = False
    down: bool = False
    cookie: str | None = Field(None, pattern=COOKIE_VALUE)

    @field_validator("address")
    @classmethod
    def _a_real_port(cls, address: Address | UnixAddress) -> Address | UnixAddress:
        if isinstance(address, Address) and address.port == 0:
            raise ValueError("a server needs a port from 1 to 65535")
        return address

    @model_validator(mode="after")
    def _can_be_resolved(self) -> Self:
        if self.resolve is None:
            return self
        if isinstance(self.address, UnixAddress) or self.address.is_literal:
            raise ValueError(f"resolve is for host names, and {self.address} is not one: remove it")
        if len(self.name) > _NAME_TO_RESOLVE_MAX:
            raise ValueError(
                f"with resolve, a name has {_NAME_TO_RESOLVE_MAX} characters at most: "
                "each address is appended to it"
            )
        return self


if TYPE_CHECKING:
    StrategyName = str
else:
    StrategyName = Literal[*STRATEGIES]

_STRATEGY_OPTIONS = Kinds("balance", {name: one.options for name, one in STRATEGIES.items()})


def _options(given: Any, info: ValidationInfo) -> StrategyOptions:
    """Those of the backend's strategy; none if that is unknown, which is an error of its own."""
    balance = info.data.get("balance")
    if balance is None:
        return StrategyOptions()
    return cast("StrategyOptions", _STRATEGY_OPTIONS.validate(balance, given, info.context))


_PROBE_OPTIONS = Kinds("probe", {name: one.options for name, one in PROBES.items()})


def _health(given: Any, info: ValidationInfo) -> ProbeOptions:
    options = _PROBE_OPTIONS.validate_own(given, DEFAULT_PROBE, info.context)
    return cast("ProbeOptions", options)


Health = Annotated[
    SerializeAsAny[ProbeOptions],
    PlainValidator(_health),
    WithJsonSchema(_PROBE_OPTIONS.json_schema()),
]

OptionsOfStrategy = Annotated[
    SerializeAsAny[StrategyOptions],
    PlainValidator(_options),
    WithJsonSchema(_STRATEGY_OPTIONS.json_schema()),
]


class Backend(Section):
    """A group of servers any of which can serve a request."""

    balance: StrategyName = "round_robin"
    strategy: OptionsOfStrategy = Field({}, validate_default=True)
    affinity: CookieOptions | None = None
    stick: list[KeyOptions] = Field([])
    pins: TableOptions = TableOptions()
    health: Health | None = None
    outlier: Outlier | None = None
    keep_alive: int = Field(32, ge=0, le=10_000)
    keep_alive_timeout: PositiveDuration = 60.0
    retries: int = Field(3, ge=0, le=100)
    tls: OptionalTls = None
    proxy_protocol: Literal["v1", "v2"] | None = None
    on_marked_down: Literal["shutdown_sessions"] | None = None
    servers: list[Server] = Field(min_length=1)

    @property
    def header_keys(self) -> frozenset[bytes]:
        """Names, in lower case, of the fields that the choice of a server depends on."""
        names = list(self.strategy.header_keys)
        for rule in self.stick:
            names += rule.header_keys
        return frozenset(name.lower().encode() for name in names)

    @model_validator(mode="after")
    def _checks_mark_down(self) -> Self:
        if self.on_marked_down is not None and self.health is None:
            raise ValueError("on_marked_down needs a health table: only checks mark a server down")
        return self

    @model_validator(mode="after")
    def _certificates_have_names(self) -> Self:
        if self.tls is None or not self.tls.verify or self.tls.server_name:
            return self
        for server in self.servers:
            if isinstance(server.address, UnixAddress) and server.server_name is None:
                raise ValueError(
                    f"{server.name} has no host name to check its certificate for: "
                    "give server_name, there or in tls"
                )
        return self
