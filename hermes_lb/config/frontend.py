"""The sections about clients: frontends, their addresses and certificates."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hermes_lb.config.route import Route
from hermes_lb.options.patterns import pattern
from hermes_lb.options.section import Name, Section, as_list
from hermes_lb.options.units import (
    Address,
    Duration,
    Endpoint,
    Network,
    UnixAddress,
)

UNIX_MODE = pattern(r"^0?[0-7]{3}$", 'the permissions of a file in octal, such as "0660"')
FileName = Annotated[str, Field(min_length=1)]

_NGH2 = "ngh2: pip install 'hermes-lb[http2]'"


class Bind(Section):
    """Where a frontend listens, and by which protocols."""

    address: Endpoint
    tls: bool = False
    proxy_protocol: bool = False
    mode: str | None = Field(None, pattern=UNIX_MODE)

    @model_validator(mode="before")
    @classmethod
    def _single_address(cls, given: object) -> object:
        return {"address": given} if isinstance(given, str | Address | UnixAddress) else given

    @model_validator(mode="after")
    def _mode_of_a_file(self) -> Self:
        if self.mode is not None and not isinstance(self.address, UnixAddress):
            raise ValueError('mode is for sockets in the file system, such as "unix:/run/lb.sock"')
        return self

    @property
    def is_any_port(self) -> bool:
        """True for port 0, which takes a free one: two of these are at two ports."""
        return isinstance(self.address, Address) and self.address.port == 0

    def __str__(self) -> str:
        return str(self.address)


# An address may stand for a table that has nothing else, and one value without its brackets:
# `bind = "0.0.0.0:8080"`.
_Written = Annotated[list[Endpoint | Bind], Field(min_length=1)] | Endpoint | Bind
OneOrMoreBinds = Annotated[
    list[Bind], Field(min_length=1), BeforeValidator(as_list, json_schema_input_type=_Written)
]


class Certificate(Section):
    """A further certificate of a frontend, chosen by the names in it (SNI)."""

    certificate: FileName
    key: FileName | None = None


# Mozilla's "intermediate" without DHE, whose key exchange costs the server most: forward secrecy
# and authenticated encryption only. TLS 1.3 has its own five, all of them good.
CIPHERS = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)


class Tls(Section):
    """How a frontend speaks TLS, at its binds with `tls = true`."""

    certificate: FileName
    key: FileName | None = None
    certificates: list[Certificate] = Field([])
    strict_sni: bool = False
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str = Field(CIPHERS, min_length=1)
    session_tickets: bool = True
    client_ca: FileName | None = None
    client_auth: Literal["required", "optional"] = "required"
    client_headers: bool = False
    reload_interval: Duration = 60.0
    hsts: Duration | None = None
    hsts_subdomains: bool = False
    hsts_preload: bool = False

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.client_headers and self.client_ca is None:
            raise ValueError("client_headers needs clients' certificates: give client_ca")
        if self.hsts is None and (self.hsts_subdomains or self.hsts_preload):
            raise ValueError('hsts_subdomains and hsts_preload go with hsts, such as hsts = "365d"')
        is_for_good = self.hsts_subdomains and (self.hsts or 0.0) >= _PRELOAD_LEAST
        if self.hsts_preload and not is_for_good:
            raise ValueError(
                'hsts_preload needs hsts = "365d" or more and hsts_subdomains = true '
                "(https://hstspreload.org)"
            )
        return self


_PRELOAD_LEAST = 365 * 86_400.0  # seconds


class Frontend(Section):
    """A public listener and its routes."""

    name: Name
    bind: OneOrMoreBinds
    tls: Tls | None = None
    redirect_to_https: Literal[301, 302, 307, 308] | None = None
    https_port: int = Field(443, ge=1, le=65535)
    trusted_proxies: list[Network | Literal["unix:"]] = Field([])
    trace: bool = False
    http2: bool | None = None
    default_backend: Name | None = None
    routes: list[Route] = Field([])

    @property
    def header_keys(self) -> frozenset[bytes]:
        """Names, in lower case, of the fields that the choice of a route depends on."""
        return frozenset[bytes]().union(*(route.header_keys for route in self.routes))

    @model_validator(mode="after")
    def _has_http2(self) -> Self:
        if self.http2 and find_spec("ngh2") is None:
            raise ValueError(f"http2 needs the package {_NGH2}")
        return self

    @property
    def speaks_http2(self) -> bool:
        """By default with TLS, where it can be."""
        if self.http2 is None:
            return self.tls is not None and find_spec("ngh2") is not None
        return self.http2

    @property
    def http2_is_off(self) -> str:
        """Why, if the default is another; "": as configured."""
        if self.http2 is None and self.tls is not None and not self.speaks_http2:
            return f"HTTP/2 is off: it needs the package {_NGH2}"
        return ""

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        only_redirects = self.redirect_to_https and not any(bind.tls for bind in self.bind)
        if self.default_backend is None and not (self.routes or only_redirects):
            raise ValueError("give default_backend, or at least one route")
        return self

    @model_validator(mode="after")
    def _principals_by_certificate(self) -> Self:
        asks = self.tls is not None and self.tls.client_headers
        for route in self.routes:
            if route.turns is not None and "certificate" in route.turns.principal and not asks:
                raise ValueError(
                    'principal = "certificate" needs [frontends.tls] with client_ca and '
                    "client_headers = true"
                )
        return self

    @model_validator(mode="after")
    def _tls_at_binds(self) -> Self:
        speaks_tls = any(bind.tls for bind in self.bind)
        if speaks_tls and self.tls is None:
            raise ValueError("a bind has tls = true: give its certificate in [frontends.tls]")
        if self.tls is not None and not speaks_tls:
            raise ValueError(
                "[frontends.tls] is used by no bind: write "
                f'bind = [{{ address = "{self.bind[0]}", tls = true }}]'
            )
        return self
