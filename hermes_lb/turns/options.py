"""`[store]` and `[frontends.routes.turns]`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hermes_lb.options.patterns import pattern
from hermes_lb.options.section import Section, as_list
from hermes_lb.options.units import Duration, PositiveDuration, Size

_STORE_URL = pattern(
    r"^(rediss?|valkeys?)(\+sentinel|\+cluster)?://[^\s]+$|^unix://[^\s]+$",
    "redis://, rediss://, redis+sentinel://, redis+cluster:// or unix://",
)
_PRINCIPAL = pattern(
    r"^(none|client|certificate|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})$",
    '"header:NAME", "cookie:NAME", "certificate", "client" or "none"',
)
_SESSION = pattern(
    r"^((header|cookie|query):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}|path:/[^?#\s]*|json:(/[^\s]*)+)$",
    '"header:NAME", "cookie:NAME", "query:NAME", "path:/sessions/{id}" or "json:/session_id"',
)
_KEY = pattern(
    r"^(header:Idempotency-Key|query:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})$",
    '"header:Idempotency-Key" or "query:NAME"',
)


_Principal = Annotated[str, Field(pattern=_PRINCIPAL)]
# The first one that a request has counts. One value may stand without its brackets.
Principals = Annotated[
    list[_Principal],
    Field(min_length=1),
    BeforeValidator(as_list, json_schema_input_type=list[_Principal] | _Principal),
]


class StoreOptions(Section):
    """`[store]`: where turns are kept. `url` absent: an embedded Valkey on this machine."""

    url: str | None = Field(None, pattern=_STORE_URL, repr=False)
    url_file: str | None = Field(None, min_length=1)
    directory: str | None = Field(None, min_length=1)  # of the embedded one
    secret_file: str | None = None  # for digests; equal on all balancers
    key_file: str | None = None  # encrypts responses in the store; equal on all balancers


class TurnOptions(Section):
    """`[frontends.routes.turns]`: requests of this route are turns."""

    principal: Principals = Field(["header:Authorization"])
    idempotency: Literal["off", "optional", "required"] = "optional"
    key: str = Field("header:Idempotency-Key", pattern=_KEY)
    on_duplicate: Literal["join", "reject"] = "join"
    on_unknown: Literal["report", "retry"] = "report"
    repeat: Literal["never", "before_first_byte"] = "never"
    journal: bool = True
    journal_size: Size = 1024 * 1024
    max_event: Size = 256 * 1024
    linger: PositiveDuration = 600.0
    keep: PositiveDuration = 86_400.0
    keep_events: PositiveDuration = 3600.0
    session: str | None = Field(None, pattern=_SESSION)
    session_required: bool = False
    busy: Literal["wait", "reject"] = "wait"
    settle: Duration = 10.0
    body_buffer: Size = 8 * 1024 * 1024
    release_on: list[int] = Field([401, 403, 407, 425, 429, 503])

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        has_keys = self.idempotency != "off"
        if not (has_keys or self.session or self.journal):
            raise ValueError("no request is a turn: give idempotency, session or journal = true")
        if self.on_unknown == "retry" and not has_keys:
            raise ValueError('on_unknown = "retry" needs idempotency: a key names what is repeated')
        if self.session_required and self.session is None:
            raise ValueError("session_required needs session: where a request names its session")
        return self
