"""What a route asks of a request besides host and path: `[frontends.routes.match]`."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hermes_lb.http.fields import is_forwarded
from hermes_lb.options.patterns import COOKIE_NAME, pattern
from hermes_lb.options.problems import any_of, quoted
from hermes_lb.options.section import Section, as_list

# CONNECT is never served.
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]

MEDIA_TYPE = pattern(  # RFC 6838 section 4.2
    r"^[!#$&^_.+0-9A-Za-z-]{1,127}/(\*|[!#$&^_.+0-9A-Za-z-]{1,127})$",
    'a media type without parameters, such as "application/json" or "text/*"',
)
PARAMETER = pattern(
    r"^[!\"$'()*,./0-9:;<>?@A-Z\[\\\]^_`a-z{|}~-]{1,64}$",
    "the decoded name, 1 to 64 visible ASCII characters without #, %, &, + and =",
)
# RFC 9110 section 5.5; what is compared has no blanks around it.
_FIELD_VALUE = re.compile(r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?").fullmatch
_FIELD_PREFIX = re.compile(r"[\x21-\x7e][\t\x20-\x7e]*").fullmatch

_Methods = Annotated[list[Method], Field(min_length=1)]
_MediaType = Annotated[str, Field(pattern=MEDIA_TYPE)]
_MediaTypes = Annotated[list[_MediaType], Field(min_length=1)]


class Condition(Section):
    """On the value of a field or a query parameter: one of the three."""

    exact: list[str] | None = Field(None, min_length=1)
    prefix: str | None = Field(None, min_length=1)
    present: bool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(given is not None for given in (self.exact, self.prefix, self.present)) != 1:
            raise ValueError("give one of exact, prefix and present")
        return self

    def __str__(self) -> str:
        if self.prefix is not None:
            return f"{quoted(self.prefix)}..."
        if self.exact is not None:
            return any_of([quoted(text) for text in self.exact])
        return "present" if self.present else "absent"


def _as_condition(given: object) -> object:
    if isinstance(given, str | list):
        return {"exact": as_list(given)}
    if isinstance(given, dict | Condition):
        return given
    raise ValueError('write a text, an array of texts, { prefix = "..." } or { present = true }')


# A text may stand for a condition, and an array for alternatives.
_Written = str | Annotated[list[str], Field(min_length=1)] | Condition
OneCondition = Annotated[Condition, BeforeValidator(_as_condition, json_schema_input_type=_Written)]


class Match(Section):
    """All conditions must hold; within one of them any of the alternatives."""

    method: (
        Annotated[_Methods, BeforeValidator(as_list, json_schema_input_type=_Methods | Method)]
        | None
    ) = None
    header: dict[Annotated[str, Field(pattern=COOKIE_NAME)], OneCondition] = Field({})
    query: dict[Annotated[str, Field(pattern=PARAMETER)], OneCondition] = Field({})
    content_type: (
        Annotated[
            _MediaTypes, BeforeValidator(as_list, json_schema_input_type=_MediaTypes | _MediaType)
        ]
        | None
    ) = None

    @field_validator("header")
    @classmethod
    def _compares_what_is_forwarded(cls, header: dict[str, Condition]) -> dict[str, Condition]:
        seen: dict[str, str] = {}
        for name, condition in header.items():
            if (other := seen.setdefault(name.lower(), name)) is not name:
                raise ValueError(f"{quoted(other)} and {quoted(name)} are the same field")
            if not is_forwarded(name.encode()):
                instead = "; give host, beside match" if name.lower() == "host" else ""
                raise ValueError(
                    f"{quoted(name)} is not forwarded as it comes, so routes can't compare it"
                    + instead
                )
            for text in condition.exact or ():
                if not _FIELD_VALUE(text):
                    raise ValueError(f"{quoted(name)} never has the value {quoted(text)}")
            if condition.prefix is not None and not _FIELD_PREFIX(condition.prefix):
                raise ValueError(f"{quoted(name)} never begins with {quoted(condition.prefix)}")
        return header

    def __str__(self) -> str:
        """`POST, content type text/*, header Mcp-Method: "tools/call", query stream: "true"`."""
        parts = [any_of(list(self.method))] if self.method else []
        if self.content_type:
            parts.append(f"content type {any_of(self.content_type)}")
        for kind, conditions in (("header", self.header), ("query", self.query)):
            parts += [f"{kind} {name}: {condition}" for name, condition in conditions.items()]
        return ", ".join(parts)

    @property
    def header_keys(self) -> frozenset[bytes]:
        """Names, in lower case, of the fields that it depends on."""
        names = [name.lower().encode() for name in self.header]
        return frozenset([*names, b"content-type"] if self.content_type else names)
