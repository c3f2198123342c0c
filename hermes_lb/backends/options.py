"""The servers of a backend as its table declares them: their keys, outlier detection, TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hermes_lb.options.patterns import pattern
from hermes_lb.options.section import Name, Section
from hermes_lb.options.units import (
    Address,
    Duration,
    Endpoint,
    PositiveDuration,
    ServerName,
    UnixAddress,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


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

_COOKIE_VALUE = pattern(  # RFC 6265 section 4.1.1: cookie-octet
    r"^[!#-+\--:<-\[\]-~]{1,128}$",
    '1 to 128 visible ASCII characters, without ", ",", ";" and "\\"',
)
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
    cookie: str | None = Field(None, pattern=_COOKIE_VALUE)

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

    @property
    def source(self) -> str:
        """Where it comes from: the configuration, or the kind of a discovery."""
        return "config"

    @property
    def is_discovered(self) -> bool:
        """A discovery has found it, and may change it at any time."""
        return False

    @property
    def identity(self) -> str:
        """What identifies it beside its name: the address. Empty: the name is enough."""
        return str(self.address)

    @property
    def resolved_from(self) -> str | None:
        """The server of the file with `resolve` of which it is an address."""
        return None

    @property
    def leaves(self) -> bool:
        """Its source says that it will be gone soon: it drains."""
        return False


class DiscoveredServer(Server):
    """A server of a discovery; no table of a file. Its name alone identifies it, so that counters
    and state survive another address; unless it is an address of a host name (`resolve`)."""

    found_by: str
    is_leaving: bool = False
    template: str | None = None  # `resolved_from`

    @property
    def source(self) -> str:
        return self.found_by

    @property
    def is_discovered(self) -> bool:
        return True

    @property
    def identity(self) -> str:
        return "" if self.template is None else str(self.address)

    @property
    def resolved_from(self) -> str | None:
        return self.template

    @property
    def leaves(self) -> bool:
        return self.is_leaving


class ServerDefaults(Section):
    """`[backends.NAME.discovery.defaults]`: options of servers that a source does not give."""

    weight: int = Field(1, ge=1, le=65_535)
    max_connections: int = Field(0, ge=0)
    max_fails: int = Field(3, ge=0, le=1_000_000)
    fail_timeout: Duration = 30.0
    slow_start: Duration = 0.0


class Backend(Protocol):
    """What this package reads of `[backends.NAME]`."""

    @property
    def servers(self) -> Sequence[Server]: ...

    @property
    def outlier(self) -> Outlier | None: ...

    @property
    def tls(self) -> ServerTls | None: ...

    @property
    def proxy_protocol(self) -> Literal["v1", "v2"] | None: ...

    @property
    def protocol(self) -> Literal["http/1.1", "h2"]: ...
