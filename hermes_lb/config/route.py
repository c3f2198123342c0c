"""A route of a frontend: which requests it takes, where they go, and what happens to them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from hermes_lb.config.error_pages import Pages
from hermes_lb.config.match import Match
from hermes_lb.config.own import OwnLimits, OwnLog, OwnTimeouts
from hermes_lb.config.rewrites import CorsOptions, RequestHeaders, ResponseHeaders, Return
from hermes_lb.http.keys import HASH_ON
from hermes_lb.options.problems import quoted
from hermes_lb.options.section import Name, Section
from hermes_lb.options.units import Network, PositiveDuration
from hermes_lb.turns.options import TurnOptions

Weight = Annotated[int, Field(ge=0, le=65_535)]


class Route(Section):
    """Which requests go to which backend: every condition that is given must hold.

    docs/routes.md has the order in which the rest is applied.
    """

    host: str | None = None
    path: str | None = None
    path_prefix: str | None = None
    match: Match | None = None
    backend: Name | None = None
    backends: dict[Name, Weight] = Field({})
    split_by: str = Field("client", pattern=HASH_ON)
    allow: list[Network | Literal["unix:"]] = Field([])
    deny: list[Network | Literal["unix:"]] = Field([])
    returns: Return | None = Field(None, alias="return")
    cors: CorsOptions | None = None
    strip_prefix: str | None = None
    replace_prefix: str | None = None
    add_prefix: str | None = None
    request_headers: RequestHeaders | None = None
    response_headers: ResponseHeaders | None = None
    error_pages: Pages = Field({})
    timeouts: OwnTimeouts | None = None
    limits: OwnLimits | None = None
    retries: int | None = Field(None, ge=0, le=100)
    access_log: bool | None = None
    log: OwnLog | None = None
    resume: bool = False
    resume_attempts: int = Field(5, ge=1, le=100)
    resume_timeout: PositiveDuration = 30.0
    resume_ids: Literal["keep", "strip"] = "keep"
    sse_keep_alive: PositiveDuration | None = None
    on_disconnect: Literal["abort", "detach", "drain"] | None = None
    disconnect_timeout: PositiveDuration = 30.0
    turns: TurnOptions | None = None

    def __str__(self) -> str:
        """`agent.example.com/api/*, POST -> agents (strip_prefix "/api", cors)`."""
        rules = f" ({self.rules})" if self.rules else ""
        return f"{self.conditions} -> {self.leads_to}{rules}"

    @property
    def leads_to(self) -> str:
        """`agents`, `agents 95, canary 5`, or `return 404`."""
        if self.returns is not None:
            return f"return {self.returns}"
        return self.backend or ", ".join(f"{name} {w}" for name, w in self.backends.items())

    @property
    def rules(self) -> str:
        """What else it does, in the order in which that is applied: `deny, strip_prefix "/api"`."""
        named = ("strip_prefix", "replace_prefix", "add_prefix")
        paths = {name: getattr(self, name) for name in named}
        found = [name for name in ("deny", "allow", "cors") if getattr(self, name)]
        found += [f"{name} {quoted(path)}" for name, path in paths.items() if path is not None]
        tables = ("request_headers", "response_headers", "error_pages", "timeouts", "limits", "log")
        found += [name for name in tables if getattr(self, name)]
        return ", ".join(found if self.retries is None else [*found, f"retries {self.retries}"])

    @property
    def backend_names(self) -> tuple[str, ...]:
        """The backends that its requests may go to; none if it answers by itself."""
        return (self.backend,) if self.backend is not None else tuple(self.backends)

    @property
    def header_keys(self) -> frozenset[bytes]:
        """Names, in lower case, of the fields that the choice of a backend depends on."""
        names = frozenset[bytes]() if self.match is None else self.match.header_keys
        kind, _, name = self.split_by.partition(":")
        return names | {name.lower().encode()} if kind == "header" else names

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

    @field_validator("path", "path_prefix", "strip_prefix", "replace_prefix", "add_prefix")
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
    def _leads_somewhere(self) -> Self:
        given = (self.backend is not None, bool(self.backends), self.returns is not None)
        if sum(given) != 1:
            raise ValueError(
                'give one of backend = "NAME", backends = { NAME = WEIGHT } and return'
            )
        if self.backends and not any(self.backends.values()):
            raise ValueError("backends: a weight above 0 is needed")
        if self.split_by != "client" and len(self.backends) < 2:
            raise ValueError("split_by is about several backends: give backends")
        if self.returns is not None and (useless := self._useless_beside_return()):
            raise ValueError(f"return answers by itself: {useless} would do nothing")
        return self

    def _useless_beside_return(self) -> str:
        """The first key that is about servers."""
        keys = (
            "strip_prefix", "replace_prefix", "add_prefix", "request_headers", "timeouts",
            "retries", "limits", "turns", "sse_keep_alive", "resume", "on_disconnect",
        )  # fmt: skip
        return next((key for key in keys if getattr(self, key)), "")

    @model_validator(mode="after")
    def _rewrites_what_it_matches(self) -> Self:
        matched = self.path or self.path_prefix
        if self.replace_prefix is not None and self.strip_prefix is not None:
            raise ValueError("give strip_prefix or replace_prefix, not both")
        if self.replace_prefix is not None and matched is None:
            raise ValueError("replace_prefix takes the place of path_prefix, or of path: give one")
        strip = self.strip_prefix
        if strip is not None:
            whole = strip.removesuffix("/")
            is_start = matched is not None and (
                matched in (whole, strip) or matched.startswith(f"{whole}/")
            )
            if not is_start:
                raise ValueError(
                    "strip_prefix must be a beginning of path_prefix, or of path, up to a slash: "
                    "else some requests would not have it"
                )
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
