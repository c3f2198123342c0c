"""What a route changes in requests and responses, or answers by itself.

Whatever could end a field's line, or break the framing of a message, is refused here.
"""

from __future__ import annotations

import re
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from hermes_lb.config.match import MEDIA_TYPE, Method
from hermes_lb.http.field_edits import refuse_field
from hermes_lb.http.templates import REQUEST_VARIABLES, RESPONSE_VARIABLES, parse
from hermes_lb.options.patterns import COOKIE_NAME, pattern
from hermes_lb.options.problems import quoted
from hermes_lb.options.section import Section
from hermes_lb.options.units import Duration

FieldName = Annotated[str, Field(pattern=COOKIE_NAME)]
NAME_OR_PREFIX = pattern(
    r"^[!#$%&'+.^_`|~0-9A-Za-z-]{1,64}\*?$", 'the name of a field, or how it begins and a "*"'
)
FieldNameOrPrefix = Annotated[str, Field(pattern=NAME_OR_PREFIX)]


def _written(fields: dict[str, str], *, action: str, in_request: bool) -> dict[str, str]:
    """Raises ValueError for a field or a value that a route must not write."""
    known = REQUEST_VARIABLES if in_request else RESPONSE_VARIABLES
    seen: dict[str, str] = {}
    for name, value in fields.items():
        if (other := seen.setdefault(name.lower(), name)) is not name:
            raise ValueError(f"{quoted(other)} and {quoted(name)} are the same field")
        refuse_field(name, action, in_request=in_request)
        try:
            parse(value, known)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return fields


def _removed(names: list[str], *, in_request: bool) -> list[str]:
    for name in names:
        refuse_field(name, "remove", in_request=in_request)
    return names


def _fields(action: str, *, in_request: bool) -> Any:
    return AfterValidator(partial(_written, action=action, in_request=in_request))


def _names(*, in_request: bool) -> Any:
    return AfterValidator(partial(_removed, in_request=in_request))


class RequestHeaders(Section):
    """Fields of the request, as the server gets it: `remove` first, then `set`, then `add`."""

    set: Annotated[dict[FieldName, str], _fields("set", in_request=True)] = Field({})
    add: Annotated[dict[FieldName, str], _fields("add", in_request=True)] = Field({})
    remove: Annotated[list[FieldNameOrPrefix], _names(in_request=True)] = Field([])


class ResponseHeaders(Section):
    """Fields of the response, as the client gets it, also where it is the balancer's own."""

    set: Annotated[dict[FieldName, str], _fields("set", in_request=False)] = Field({})
    add: Annotated[dict[FieldName, str], _fields("add", in_request=False)] = Field({})
    remove: Annotated[list[FieldNameOrPrefix], _names(in_request=False)] = Field([])


REDIRECTS = frozenset((301, 302, 303, 307, 308))
_BODILESS = frozenset((204, 205, 304))
# Behind a first slash no variable: what it stands for could begin with a second one.
_LOCATION = re.compile(
    r"https?://(?:[^/?#\s{}\\]+|\{host\}(?::[0-9]{1,5})?)(?:\Z|[/?#]|\{(?:path|target)\})"
    r"|/(?![/{])|\{(?:path|target)\}"
).match
CONTENT_TYPE = pattern(
    MEDIA_TYPE[:-1] + r"(; ?[a-z]+=[0-9A-Za-z._-]+)?$",
    'a media type such as "text/plain; charset=utf-8"',
)


class Return(Section):
    """An answer of the balancer's: no server is asked."""

    status: int = Field(ge=200, le=599)
    location: str | None = Field(None, min_length=1)
    body: str | None = Field(None, max_length=65_536)
    content_type: str = Field("text/plain; charset=utf-8", pattern=CONTENT_TYPE)

    @model_validator(mode="before")
    @classmethod
    def _single_status(cls, given: object) -> object:
        return {"status": given} if isinstance(given, int) else given

    @field_validator("status")
    @classmethod
    def _has_a_phrase(cls, status: int) -> int:
        if status not in {one.value for one in HTTPStatus}:
            raise ValueError("it is no registered status")
        return status

    @field_validator("location")
    @classmethod
    def _leads_where_it_says(cls, location: str | None) -> str | None:
        if location is None:
            return None
        parse(location)
        if " " in location or "\t" in location or "\\" in location:
            raise ValueError("a URL has no blanks, and no backslashes")
        if not _LOCATION(location):
            raise ValueError(
                'write a path, or "https://" and a host, such as "https://{host}{target}": what '
                "else a client could complete to another host"
            )
        return location

    @model_validator(mode="after")
    def _is_an_answer(self) -> Self:
        if (self.status in REDIRECTS) is not (self.location is not None):
            raise ValueError("location goes with the statuses 301, 302, 303, 307 and 308")
        if self.body is not None and (self.status in _BODILESS or self.status in REDIRECTS):
            raise ValueError(f"a response with status {self.status} has no body here")
        return self

    def __str__(self) -> str:
        return f"{self.status} {self.location}" if self.location else str(self.status)


ORIGIN = pattern(
    r"^(\*|null|[a-z][a-z0-9+.-]*://((\*\.)?[a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$",
    'an origin in lower case, such as "https://app.example.com", "https://*.example.com" or "*"',
)


class CorsOptions(Section):
    """Which pages of other origins may use this route; preflights are answered."""

    origins: list[Annotated[str, Field(pattern=ORIGIN)]] = Field(min_length=1)
    methods: list[Method] = Field(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], min_length=1)
    headers: list[FieldName] = Field(["*"])
    expose: list[FieldName] = Field([])
    credentials: bool = False
    max_age: Duration = 600.0

    @model_validator(mode="after")
    def _trusts_only_some(self) -> Self:
        for every in ("*", "null"):
            if self.credentials and every in self.origins:
                raise ValueError(
                    f'credentials = true with the origin "{every}" would let any page act as its '
                    "user: name the origins"
                )
        return self
