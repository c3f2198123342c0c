"""The sections about the balancer as a whole: process, admin, log, timeouts, limits."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PlainValidator, ValidationInfo, field_validator

from hermes_lb.config.references import ADMIN_BIND
from hermes_lb.options.patterns import pattern
from hermes_lb.options.section import Name, Section
from hermes_lb.options.units import (
    Address,
    Duration,
    HostPort,
    PositiveDuration,
    Size,
    is_loopback,
)

KIB = 1024
MIB = 1024 * 1024


MOST_WORKERS = 256


def _parse_workers(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_WORKERS:
        return value
    raise ValueError(f'write a number from 1 to {MOST_WORKERS}, or "auto" for one per core')


_Workers = Annotated[int, Field(ge=1, le=MOST_WORKERS)] | Literal["auto"]


class Process(Section):
    """The processes as a whole."""

    workers: Annotated[
        int | Literal["auto"], PlainValidator(_parse_workers, json_schema_input_type=_Workers)
    ] = 1
    max_connections: int = Field(50_000, ge=1, le=1_000_000)
    drain_timeout: Duration = 600.0
    state_file: str | None = Field(None, min_length=1)
    reload_on_change: bool = False


TOKEN_VARIABLE = "HERMES_LB_ADMIN_TOKEN"
"""The environment variable that may hold the admin listener's token."""

_VISIBLE = pattern(r"^[\x21-\x7e]*$", "visible ASCII characters")
# 16 random letters and digits have 95 bits.
_SHORTEST_TOKEN = 16


class AdminTls(Section):
    """TLS of the admin listener: PEM files."""

    certificate: str = Field(min_length=1)
    key: str = Field(min_length=1)


class Admin(Section):
    """The listener of the operator: dashboard, /api/v1, /metrics, /healthz.

    A client with its token may change the running balancer. Without a token every process of the
    machine may, and the listener must be on loopback.
    """

    enabled: bool = True
    token: str | None = Field(None, pattern=_VISIBLE, min_length=_SHORTEST_TOKEN, repr=False)
    token_file: str | None = Field(None, min_length=1)
    tls: AdminTls | None = None
    # After the tokens, which its validator reads.
    bind: HostPort = Field(ADMIN_BIND, json_schema_extra={"default": str(ADMIN_BIND)})

    @field_validator("bind")
    @classmethod
    def _guarded(cls, bind: Address, info: ValidationInfo) -> Address:
        has_token = info.data.get("token") or info.data.get("token_file")
        if not (is_loopback(bind.host) or has_token or os.environ.get(TOKEN_VARIABLE)):
            raise ValueError(
                "off loopback a token is needed: set admin.token_file, admin.token or "
                f'{TOKEN_VARIABLE}, or bind it to loopback, such as "127.0.0.1:9900"'
            )
        return bind


_HTTP_URL = pattern(r"^https?://[\x21-\x7e]+$", "a URL such as http://127.0.0.1:4318/v1/traces")


# HAProxy's names, by their numbers (RFC 3164 section 4.1.1).
Facility = Literal[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news",
    "uucp", "cron", "auth2", "ftp", "ntp", "audit", "alert", "cron2",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip


class Log(Section):
    """The access log, and trace contexts."""

    access: str = Field("stdout", min_length=1)
    format: Literal["httplog", "json", "combined"] = "httplog"
    facility: Facility = "local0"
    tag: Name = "hermes_lb"
    sample: float = Field(1.0, ge=0.0, le=1.0)
    slow: PositiveDuration = 10.0
    traceparent: Literal["make", "pass"] = "make"
    capture_trace: bool = False
    otlp: str | None = Field(None, pattern=_HTTP_URL)


class Timeouts(Section):
    """Timeouts, in seconds; each has the meaning of HAProxy's of the same name."""

    request_head: PositiveDuration = 10.0
    connect: PositiveDuration = 5.0
    client: PositiveDuration = 300.0
    server: PositiveDuration = 300.0
    tunnel: PositiveDuration = 3600.0
    keep_alive: PositiveDuration = 75.0
    queue: PositiveDuration = 30.0


class SizeRange(NamedTuple):
    """What a size may be, in bytes."""

    least: int
    most: int

    def by_default(self, default: int | None) -> Any:
        bounds: dict[str, Any] = {"minimum": self.least, "maximum": self.most}
        return Field(default, ge=self.least, le=self.most, json_schema_extra=bounds)


BODY_SIZE = SizeRange(0, 1024 * 1024 * MIB)
RETRY_BUFFER = SizeRange(0, 16 * MIB)


class Limits(Section):
    """Bounds on what one client may send. Constant ones are in `hermes_lb.http.limits`."""

    # nginx 4 buffers of 8 KiB, HAProxy 16 KiB, Node 16 KiB, Envoy 60 KiB. Cookies and bearer
    # tokens of several KiB are not rare.
    head_size: Size = SizeRange(KIB, MIB).by_default(32 * KIB)
    # Envoy 100, Apache 100, HAProxy 101.
    header_count: int = Field(100, ge=10, le=10_000)
    # RFC 9110 section 4.1 asks for 8,000 bytes at least; nginx 8 KiB, Apache 8 KiB.
    target_size: Size = SizeRange(KIB, MIB).by_default(16 * KIB)
    # nginx 1 MiB, Cloudflare 100 MB, HAProxy none. Prompts carry images and documents.
    body_size: Size = BODY_SIZE.by_default(100 * MIB)
    # HAProxy 16 KiB (`tune.bufsize`), nginx 16 KiB and then a file.
    retry_buffer: Size = RETRY_BUFFER.by_default(64 * KIB)
    # nginx (`limit_conn`) and HAProxy (`src_conn_cur`) none. A tenth of `max_connections`: one
    # address can't take them all, and a gateway or a NAT before many users still fits.
    connections_per_client: int = Field(5_000, ge=0, le=1_000_000)
    # nginx (`limit_req`) and HAProxy (`http_req_rate`) none: the limit depends on the service.
    request_rate: float = Field(0.0, ge=0.0, le=1_000_000.0)
    request_burst: int = Field(100, ge=1, le=1_000_000)
