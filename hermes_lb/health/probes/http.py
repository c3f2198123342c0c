"""`probe = "http"`: one request and its response, by HAProxy's `option httpchk`.

A server may report its load (`X-Hermes-Load`, or "load" in a JSON body), and announce that it
drains: 503 with `X-Hermes-Draining`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from hermes_lb.health.probes.base import Finding, Probe, ProbeOptions
from hermes_lb.health.probes.expect import Expectation, announces_drain, reported_load
from hermes_lb.http import ResponseParser
from hermes_lb.options.patterns import pattern
from hermes_lb.options.section import as_list
from hermes_lb.options.units import Status

if TYPE_CHECKING:
    from hermes_lb.backends.dialing import ServerDialer
    from hermes_lb.health.probes.connection import Answer
    from hermes_lb.health.probes.connection_http2 import Http2Answer

USER_AGENT = "hermes-lb-check"
# Fields of a response head. As the default of `limits.header_count`.
_MOST_FIELDS = 100

_HEADER = pattern(
    r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(:[\t\x20-\x7e]*)?$",
    '"NAME", "NAME: value" or "NAME: ~regular expression"',
)
_HOST = pattern(r"^[A-Za-z0-9_.:\[\]-]{1,255}$", 'a host such as "agents.internal" or "[::1]:8000"')
_PATH = pattern(
    r"^/[\x21-\x7e]*$", 'a path such as "/health": a "/", then visible ASCII characters'
)

_StatusList = Annotated[list[Status], Field(min_length=1)]
# One value may stand without its brackets: `expect_status = 200`.
OneOrMoreStatuses = Annotated[
    _StatusList, BeforeValidator(as_list, json_schema_input_type=_StatusList | Status)
]


class HttpOptions(ProbeOptions):
    probe: Literal["http"] = "http"
    path: str = Field("/health", pattern=_PATH)
    method: Literal["GET", "HEAD", "OPTIONS"] = "GET"
    host: str | None = Field(None, pattern=_HOST)
    expect_status: OneOrMoreStatuses = Field([200])
    expect_header: str | None = Field(None, pattern=_HEADER)
    expect_body: str | None = Field(None, min_length=1)

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


class HttpProbe(Probe):
    options = HttpOptions

    def __init__(self, options: HttpOptions) -> None:
        # Here, as a configuration is validated without asyncio.
        from hermes_lb.health.probes.connection import ask

        self._ask = ask
        self._path = options.path.encode()
        self._method = options.method.encode()
        self._request_line = f"{options.method} {options.path} HTTP/1.1\r\n"
        self._host = options.host
        self._expected = Expectation(
            options.expect_status, options.expect_header, options.expect_body
        )
        self._parser = ResponseParser(_MOST_FIELDS)

    async def check(self, dialer: ServerDialer) -> Finding:
        if dialer.speaks_http2:
            return await self._check_http2(dialer)
        request = (
            f"{self._request_line}Host: {self._host or dialer.host}\r\n"
            f"User-Agent: {USER_AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        ).encode()
        answer = await self._ask(dialer, self._method, request, self._parser)
        return self._judge(answer.head.status, answer)

    async def _check_http2(self, dialer: ServerDialer) -> Finding:
        from hermes_lb.health.probes.connection_http2 import ask_http2

        fields = [
            (b":method", self._method),
            (b":path", self._path),
            (b":authority", (self._host or dialer.host).encode()),
            (b"user-agent", USER_AGENT.encode()),
            (b"accept", b"*/*"),
        ]
        answer = await ask_http2(dialer, fields)
        return self._judge(answer.status, answer)

    def _judge(self, status: int, answer: Answer | Http2Answer) -> Finding:
        load = reported_load(answer.header("X-Hermes-Load"), answer.body)
        if status == 503 and announces_drain(answer.header("X-Hermes-Draining")):
            return Finding(False, "503, it announces its drain", load, announces_drain=True)
        fault = self._expected.fault(status, answer.header, answer.body)
        return Finding(fault is None, fault or f"{status}", load)
