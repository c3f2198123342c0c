"""The base class of all sections, and the patterns of texts."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9_.-]{1,64}$"
COOKIE_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$"  # RFC 6265 section 4.1.1: a token
COOKIE_VALUE = r"^[!#-+\--:<-\[\]-~]{1,128}$"  # RFC 6265 section 4.1.1: cookie-octet
DOMAIN = r"^[A-Za-z0-9.-]+$"
HEADER_EXPECTED = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(:[\t\x20-\x7e]*)?$"
HOST = r"^[A-Za-z0-9_.:\[\]-]{1,255}$"
PATH = r"^/[\x21-\x7e]*$"
VISIBLE = r"^[\x21-\x7e]*$"

HASH_ON = r"^(client|(header|cookie|query):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})$"

STICK_ON = (
    r"^(client|(header|cookie|query):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
    r"|path:/[^{}\x00-\x20?#]*\{[a-z_]*\}[^{}\x00-\x20?#]*)$"
)
REDIS_URL = r"^(rediss?|unix)://\S+$"
UNIX_MODE = r"^0?[0-7]{3}$"

# The patterns in words: an error quotes these, never a regular expression.
PATTERNS_IN_WORDS = {
    NAME: '1 to 64 letters, digits, "_", "." or "-"',
    COOKIE_NAME: "1 to 64 letters, digits or any of !#$%&'*+.^_`|~-",
    COOKIE_VALUE: '1 to 128 visible ASCII characters, without ", ",", ";" and "\\"',
    DOMAIN: 'a domain such as "example.com"',
    HASH_ON: '"client", "header:NAME", "cookie:NAME" or "query:NAME"',
    STICK_ON: '"header:NAME", "cookie:NAME", "query:NAME", "path:/sessions/{id}" or "client"',
    REDIS_URL: "a URL such as redis://127.0.0.1:6379/0",
    HOST: 'a host such as "agents.internal" or "[::1]:8000"',
    HEADER_EXPECTED: '"NAME", "NAME: value" or "NAME: ~regular expression"',
    VISIBLE: "visible ASCII characters",
    UNIX_MODE: 'the permissions of a file in octal, such as "0660"',
    PATH: 'a path such as "/health": a "/", then visible ASCII characters',
}

Name = Annotated[str, Field(pattern=NAME)]


def as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


class Section(BaseModel):
    """A table of the file: immutable, and an unknown key is an error.

    Strict: TOML has types, so `backup = "yes"` and `weight = "2"` are errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
