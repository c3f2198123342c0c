"""Texts with variables, such as `https://{host}{target}`: parsed when they are loaded. Pure.

What a variable stands for is in `proxy.variables`. Braces that mean themselves are doubled.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hermes_lb.options.problems import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Collection

#: What is known before a server is chosen.
REQUEST_VARIABLES: Final = frozenset(
    ("backend", "client", "client_port", "frontend", "host", "method", "path", "query",
     "request_id", "route", "scheme", "target", "tls_client", "tls_name", "tls_version",
     "trace_id")
)  # fmt: skip
#: What is known once there is a response.
RESPONSE_VARIABLES: Final = REQUEST_VARIABLES | {"server", "status"}

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
# Of a field's value: visible ASCII, and blanks within it (RFC 9110 section 5.5).
_TEXT = re.compile(r"[\t\x20-\x7e]*").fullmatch


class Variable(str):
    """The name of a variable, between the texts of a template."""

    __slots__ = ()


def parse(text: str, known: Collection[str] = REQUEST_VARIABLES) -> list[bytes | Variable]:
    """The texts and the variables of a template, in order. Raises ValueError."""
    if not _TEXT(text):
        raise ValueError(
            "a value is visible ASCII characters and blanks: a line end would begin another field"
        )
    parts: list[bytes | Variable] = []
    constant = ""
    for found in _PART.finditer(text):
        part = found[0]
        if part in ("{{", "}}"):
            constant += part[0]
        elif part[0] not in "{}":
            constant += part
        elif part in ("{", "}"):
            raise ValueError(f'a "{part}" that belongs to no variable is written "{part * 2}"')
        else:
            if found[1] not in known:
                raise ValueError(_unknown(found[1], known))
            if constant:
                parts.append(constant.encode("ascii"))
            constant = ""
            parts.append(Variable(found[1]))
    return [*parts, constant.encode("ascii")] if constant else parts


def _unknown(name: str, known: Collection[str]) -> str:
    if name in RESPONSE_VARIABLES:
        return f"{{{name}}} is known in a response only"
    near = did_you_mean(name, known)
    hint = f"did you mean {{{near}}}?" if near else f"there are {', '.join(sorted(known))}"
    return f"there is no variable {quoted(name)}; {hint}"
