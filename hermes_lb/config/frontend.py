"""The sections about clients: frontends and their routes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hermes_lb.config.match import Match
from hermes_lb.options.patterns import pattern
from hermes_lb.options.section import Name, Section, as_list
from hermes_lb.options.units import (
    Address,
    Duration,
    Endpoint,
    Network,
    PositiveDuration,
    UnixAddress,
)
from hermes_lb.turns.options import TurnOptions

UNIX_MODE = pattern(r"^0?[0-7]{3}$", 'the permissions of a file in octal, such as "0660"')
FileName = Annotated[str, Field(min_length=1)]


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


class Route(Section):
    """Which requests go to which backend: every condition that is given must hold."""

    host: str | None = None
    path: str | None = None
    path_prefix: str | None = None
    match: Match | None = None
    backend: Name
    access_log: bool = True
    resume: bool = False
    resume_attempts: int = Field(5, ge=1, le=100)
    resume_timeout: PositiveDuration = 30.0
    resume_ids: Literal["keep", "strip"] = "keep"
    sse_keep_alive: PositiveDuration | None = None
    on_disconnect: Literal["abort", "detach", "drain"] | None = None
    disconnect_timeout: PositiveDuration = 30.0
    turns: TurnOptions | None = None

    def __str__(self) -> str:
        """`agent.example.com/api/*, POST -> agents`."""
        return f"{self.conditions} -> {self.backend}"

    @property
    def conditions(self) -> str:
        """All that it asks of a request: `agent.example.com/api/*, POST`."""
        path = self.path or (f"{self.path_prefix}*" if self.path_prefix else "")
        asked = [f"{self.host or ''}{path}", f"{self.match or ''}"]
        return ", ".join(filter(None, asked)) or "*"

    @field_validator("host")
    @classmethod
    def _lower_case_host(cls, host: str | None) -> str | None:
        if host is None:
            return None
        if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]", host):
            raise ValueError(
                'write a host name without a port, such as "agent.example.com" or "*.example.com"'
            )
        return host.lower()

    @field_validator("path", "path_prefix")
    @classmethod
    def _starts_with_slash(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/"):
            raise ValueError('a path starts with "/"')
        if path is not None and not re.fullmatch(r"[\x21-\x7e]+", path):
            raise ValueError("write blanks and non-ASCII characters as they travel, such as %20")
        if path is not None and re.search(r"[?#]", path):
            raise ValueError('a path ends before "?" and "#"; for the query: match.query')
        return path

    @model_validator(mode="after")
    def _one_kind_of_path(self) -> Self:
        if self.path is not None and self.path_prefix is not None:
            raise ValueError("give path (exact) or path_prefix, not both")
        return self

    @model_validator(mode="after")
    def _strips_ids_of_what_it_resumes(self) -> Self:
        if self.resume_ids == "strip" and not self.resume:
            raise ValueError('resume_ids = "strip" is about resumed streams: give resume = true')
        return self

    @model_validator(mode="after")
    def _turns_go_on(self) -> Self:
        if self.turns is None:
            return self
        if self.on_disconnect == "abort" and self.turns.idempotency != "off":
            raise ValueError(
                'on_disconnect = "abort" would cancel what a retry with the same key asks for: '
                'leave it out, or give turns.idempotency = "off"'
            )
        if self.resume and not self.turns.journal:
            raise ValueError("resume goes on behind the last event of a journal: turns.journal")
        if self.resume_ids == "strip":
            raise ValueError('resume_ids = "strip" is not for turns: clients resume by the ids')
        return self

    @property
    def when_client_leaves(self) -> Literal["abort", "detach", "drain"]:
        """`on_disconnect`, or its default."""
        if self.on_disconnect is not None:
            return self.on_disconnect
        turns = self.turns
        return "detach" if turns and (turns.idempotency != "off" or turns.session) else "abort"


class Frontend(Section):
    """A public listener and its routes."""

    name: Name
    bind: OneOrMoreBinds
    tls: Tls | None = None
    redirect_to_https: Literal[301, 302, 307, 308] | None = None
    https_port: int = Field(443, ge=1, le=65535)
    trusted_proxies: list[Network | Literal["unix:"]] = Field([])
    trace: bool = False
    http2: bool = False
    default_backend: Name | None = None
    routes: list[Route] = Field([])

    @property
    def header_keys(self) -> frozenset[bytes]:
        """Names, in lower case, of the fields that the choice of a route depends on."""
        return frozenset[bytes]().union(
            *(route.match.header_keys for route in self.routes if route.match is not None)
        )

    @model_validator(mode="after")
    def _has_http2(self) -> Self:
        if self.http2 and find_spec("ngh2") is None:
            raise ValueError("http2 needs the package ngh2: pip install 'hermes-lb[http2]'")
        return self

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
