"""What a configuration may say: names, types, limits and defaults. No I/O.

The keys are the contract with users, in HAProxy's and nginx's own words where they have one.
`configs/reference.toml` lists them all; a test holds the two together.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hermes_lb.config.problems import dotted
from hermes_lb.config.references import ADMIN_BIND, check_references
from hermes_lb.config.units import (
    Address,
    Duration,
    HostPort,
    Network,
    PositiveDuration,
    Size,
    Status,
    status_range,
)

__all__ = [
    "Admin",
    "Backend",
    "Config",
    "CookieAffinity",
    "Frontend",
    "Health",
    "Limits",
    "Log",
    "Outlier",
    "Pins",
    "Process",
    "Route",
    "Section",
    "Server",
    "Stick",
    "StrategyOptions",
    "Timeouts",
    "status_range",
]

KIB = 1024
MIB = 1024 * 1024

_NAME = r"^[A-Za-z0-9_.-]{1,64}$"
_COOKIE_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$"  # RFC 6265 section 4.1.1: a token
_COOKIE_VALUE = r"^[!#-+\--:<-\[\]-~]{1,128}$"  # RFC 6265 section 4.1.1: cookie-octet
_DOMAIN = r"^[A-Za-z0-9.-]+$"
_HEADER_EXPECTED = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(:[\t\x20-\x7e]*)?$"
_PATH = r"^/[\x21-\x7e]*$"

_HASH_ON = r"^(client|(header|cookie|query):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})$"

_STICK_ON = (
    r"^(client|(header|cookie|query):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
    r"|path:/[^{}\x00-\x20?#]*\{[a-z_]*\}[^{}\x00-\x20?#]*)$"
)
_REDIS_URL = r"^(rediss?|unix)://\S+$"

# The patterns in words, for people: an error quotes these, never a regular expression.
PATTERNS_IN_WORDS = {
    _NAME: '1 to 64 letters, digits, "_", "." or "-"',
    _COOKIE_NAME: "1 to 64 letters, digits or any of !#$%&'*+.^_`|~-",
    _COOKIE_VALUE: '1 to 128 visible ASCII characters, without ", ",", ";" and "\\"',
    _DOMAIN: 'a domain such as "example.com"',
    _HASH_ON: '"client", "header:NAME", "cookie:NAME" or "query:NAME"',
    _STICK_ON: '"header:NAME", "cookie:NAME", "query:NAME", "path:/sessions/{id}" or "client"',
    _REDIS_URL: "a URL such as redis://127.0.0.1:6379/0",
    _HEADER_EXPECTED: '"NAME", "NAME: value" or "NAME: ~regular expression"',
    _PATH: 'a path such as "/health": a "/", then visible ASCII characters',
}

Name = Annotated[str, Field(pattern=_NAME)]


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


_AddressList = Annotated[list[HostPort], Field(min_length=1)]
_StatusList = Annotated[list[Status], Field(min_length=1)]
# One value may stand without its brackets: `bind = "0.0.0.0:8080"`.
OneOrMoreAddresses = Annotated[
    _AddressList, BeforeValidator(_as_list, json_schema_input_type=_AddressList | HostPort)
]
OneOrMoreStatuses = Annotated[
    _StatusList, BeforeValidator(_as_list, json_schema_input_type=_StatusList | Status)
]


class Section(BaseModel):
    """A table of the file: immutable, and an unknown key is an error.

    Strict: TOML has types, so `backup = "yes"` and `weight = "2"` are mistakes, not spellings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Process(Section):
    """The process as a whole."""

    workers: Literal[1] = 1
    max_connections: int = Field(50_000, ge=1, le=1_000_000)
    drain_timeout: Duration = 600.0

    @field_validator("workers", mode="before")
    @classmethod
    def _one_for_now(cls, workers: object) -> object:
        if workers != 1 or isinstance(workers, bool):
            raise ValueError("several processes come in a later version; until then write 1")
        return workers


class Admin(Section):
    """The listener of the operator: /healthz, /metrics, /api/v1/...; loopback only."""

    enabled: bool = True
    bind: HostPort = Field(ADMIN_BIND, json_schema_extra={"default": str(ADMIN_BIND)})

    @field_validator("bind")
    @classmethod
    def _loopback_only(cls, bind: Address) -> Address:
        if bind.host not in ("localhost", "::1") and not bind.host.startswith("127."):
            raise ValueError(
                "the admin listener has no access control yet: bind it to loopback, "
                'such as "127.0.0.1:9900"'
            )
        return bind


class Log(Section):
    """The access log."""

    access: str = Field("stdout", min_length=1)
    format: Literal["httplog"] = "httplog"


class Timeouts(Section):
    """Deadlines, in seconds; each one's meaning is HAProxy's of the same name."""

    request_head: PositiveDuration = 10.0
    connect: PositiveDuration = 5.0
    client: PositiveDuration = 300.0
    server: PositiveDuration = 300.0
    tunnel: PositiveDuration = 3600.0
    keep_alive: PositiveDuration = 75.0
    queue: PositiveDuration = 30.0


def _size(default: int, *, least: int, most: int) -> Any:
    bounds: dict[str, Any] = {"minimum": least, "maximum": most}
    return Field(default, ge=least, le=most, json_schema_extra=bounds)


class Limits(Section):
    """Bounds on what one client may send. Those nobody has to change: `hermes_lb.http1.limits`."""

    # nginx 4 buffers of 8 KiB, HAProxy 16 KiB, Node 16 KiB, Envoy 60 KiB. Cookies and bearer
    # tokens of several KiB are not rare.
    head_size: Size = _size(32 * KIB, least=KIB, most=MIB)
    # Envoy 100, Apache 100, HAProxy 101.
    header_count: int = Field(100, ge=10, le=10_000)
    # RFC 9110 section 4.1 asks for 8,000 bytes at least; nginx 8 KiB, Apache 8 KiB.
    target_size: Size = _size(16 * KIB, least=KIB, most=MIB)
    # nginx 1 MiB, Cloudflare 100 MB, HAProxy none. Prompts carry images and documents.
    body_size: Size = _size(100 * MIB, least=0, most=1024 * 1024 * MIB)
    # HAProxy 16 KiB (`tune.bufsize`), nginx 16 KiB and then a file.
    retry_buffer: Size = _size(64 * KIB, least=0, most=16 * MIB)
    # nginx (`limit_conn`) and HAProxy (`src_conn_cur`) none. A tenth of `max_connections`: one
    # address can't take them all, and a gateway or a NAT before many users still fits.
    connections_per_client: int = Field(5_000, ge=0, le=1_000_000)
    # nginx (`limit_req`) and HAProxy (`http_req_rate`) none: only the operator knows what is much.
    request_rate: float = Field(0.0, ge=0.0, le=1_000_000.0)
    request_burst: int = Field(100, ge=1, le=1_000_000)


class Route(Section):
    """Which requests go to which backend: every condition that is given must hold."""

    host: str | None = None
    path: str | None = None
    path_prefix: str | None = None
    backend: Name
    access_log: bool = True
    resume: bool = False
    resume_attempts: int = Field(5, ge=1, le=100)
    resume_timeout: PositiveDuration = 30.0
    sse_keep_alive: PositiveDuration | None = None
    on_disconnect: Literal["abort", "detach", "drain"] = "abort"
    disconnect_timeout: PositiveDuration = 30.0

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
            raise ValueError('a path ends before "?" and "#": routes do not see the query')
        return path

    @model_validator(mode="after")
    def _one_kind_of_path(self) -> Self:
        if self.path is not None and self.path_prefix is not None:
            raise ValueError("give path (exact) or path_prefix, not both")
        return self


class Frontend(Section):
    """A public listener and its routes."""

    name: Name
    bind: OneOrMoreAddresses
    trusted_proxies: list[Network] = []
    trace: bool = False
    default_backend: Name | None = None
    routes: list[Route] = []

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if self.default_backend is None and not self.routes:
            raise ValueError("give default_backend, or at least one route")
        return self


class CookieAffinity(Section):
    """HAProxy's `cookie NAME insert indirect nocache`, or `rewrite`, or `prefix`."""

    cookie: str = Field(pattern=_COOKIE_NAME)
    secret: str | None = Field(None, min_length=1, repr=False)
    mode: Literal["insert", "rewrite", "prefix"] = "insert"
    indirect: Literal[True] = True
    nocache: bool = True
    preserve: bool = False
    max_idle: PositiveDuration | None = None
    max_life: PositiveDuration | None = None
    domain: str | None = Field(None, pattern=_DOMAIN)
    httponly: bool = False
    secure: bool = False
    samesite: Literal["Strict", "Lax", "None"] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.samesite == "None" and not self.secure:
            raise ValueError('samesite = "None" needs secure = true, or browsers drop the cookie')
        if self.mode != "insert" and (self.max_idle or self.max_life):
            raise ValueError('max_idle and max_life are for mode = "insert": the dates are ours')
        return self


class Stick(Section):
    """A key in the request decides the server: HAProxy's `stick on`, `stick store-response`."""

    on: str = Field(pattern=_STICK_ON)
    learn: bool = False
    response_header: str | None = Field(None, pattern=_COOKIE_NAME)
    on_lost: Literal["prefer", "strict"] = "prefer"


class Pins(Section):
    """Where learnt keys are kept, for all stick rules of a backend."""

    size: int = Field(100_000, ge=1, le=10_000_000)
    expire: PositiveDuration = 3600.0
    redis: str | None = Field(None, pattern=_REDIS_URL)


class Health(Section):
    """Active checks, by HAProxy's `option httpchk`: inter, fastinter, downinter, rise, fall."""

    path: str = Field("/health", pattern=_PATH)
    method: Literal["GET", "HEAD", "OPTIONS"] = "GET"
    host: str | None = None
    expect_status: OneOrMoreStatuses = [200]
    expect_header: str | None = Field(None, pattern=_HEADER_EXPECTED)
    expect_body: str | None = Field(None, min_length=1)
    interval: PositiveDuration = 5.0
    fast_interval: PositiveDuration | None = None
    down_interval: PositiveDuration | None = None
    timeout: PositiveDuration | None = None
    rise: int = Field(2, ge=1, le=1000)
    fall: int = Field(3, ge=1, le=1000)
    start: Literal["up", "down"] = "up"

    @field_validator("expect_header", "expect_body")
    @classmethod
    def _a_valid_expression(cls, expected: str | None, info: ValidationInfo) -> str | None:
        text = expected or ""
        if info.field_name == "expect_header":
            text = text.partition(":")[2].strip()
        if text.startswith("~"):
            try:
                re.compile(text[1:].strip().encode())
            except re.error as error:
                raise ValueError(f"this is no regular expression: {error}") from None
        return expected

    @model_validator(mode="after")
    def _a_body_to_look_at(self) -> Self:
        if self.method == "HEAD" and self.expect_body is not None:
            raise ValueError('a response to HEAD has no body: use method = "GET" with expect_body')
        return self


class Outlier(Section):
    """Envoy's outlier detection: who fails while the others do not is left out for a time."""

    consecutive_failures: int = Field(5, ge=0, le=1_000_000)
    failure_share: float = Field(0.85, ge=0.0, le=1.0)
    min_requests: int = Field(50, ge=1, le=1_000_000)
    interval: PositiveDuration = 10.0
    ejection_time: PositiveDuration = 30.0
    max_ejection_time: PositiveDuration = 300.0


class Server(Section):
    """One worker behind the balancer."""

    name: Name
    address: HostPort
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
    def _a_real_port(cls, address: Address) -> Address:
        if address.port == 0:
            raise ValueError("a server needs a port from 1 to 65535")
        return address


class StrategyOptions(Section):
    """What some strategies can be told; the others take no notice."""

    hash_on: str = Field("client", pattern=_HASH_ON)
    # Envoy and HAProxy have no bound by default. A tighter one sends more keys to strangers.
    load_factor: float = Field(1.25, ge=0.0, le=1000.0)
    tau: PositiveDuration = 10.0

    @field_validator("load_factor")
    @classmethod
    def _leaves_room(cls, factor: float) -> float:
        if 0.0 < factor < 1.0:
            raise ValueError("write 1.0 or more, or 0.0 for no bound")
        return factor


class Backend(Section):
    """A group of servers that can stand in for each other."""

    balance: Literal[
        "round_robin",
        "leastconn",
        "ip_hash",
        "random",
        "consistent_hash",
        "maglev",
        "p2c",
        "peak_ewma",
        "prequal",
        "least_load",
    ] = "round_robin"
    strategy: StrategyOptions = StrategyOptions()
    affinity: CookieAffinity | None = None
    stick: list[Stick] = []
    pins: Pins = Pins()
    health: Health | None = None
    outlier: Outlier | None = None
    keep_alive: int = Field(32, ge=0, le=10_000)
    keep_alive_timeout: PositiveDuration = 60.0
    retries: int = Field(3, ge=0, le=100)
    servers: list[Server] = Field(min_length=1)


class Config(Section):
    """A whole configuration file."""

    process: Process = Process()
    admin: Admin = Admin()
    log: Log = Log()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    frontends: list[Frontend] = Field(min_length=1)
    backends: dict[Name, Backend] = Field(min_length=1)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        findings = check_references(self.model_dump())
        if findings:
            raise ValueError("; ".join(f"{dotted(path)}: {text}" for path, text in findings))
        return self
