"""`[backends.NAME.discovery]`: the table of one kind, and the rules that hold for all kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import Field, create_model, model_validator

from hermes_lb.backends.options import ServerDefaults
from hermes_lb.discovery.sources.base import MOST_SERVERS
from hermes_lb.discovery.sources.registry import SOURCES
from hermes_lb.options.problems import any_of
from hermes_lb.options.section import Section
from hermes_lb.options.units import Duration, PositiveDuration

if TYPE_CHECKING:
    from hermes_lb.discovery.sources.base import SourceOptions


class _Rules(Section):
    """What all kinds have."""

    empty_after: PositiveDuration = 30.0
    flap_hold: Duration = 10.0
    max_servers: int = Field(2_000, ge=1, le=MOST_SERVERS)
    defaults: ServerDefaults = ServerDefaults()

    @model_validator(mode="after")
    def _has_one_kind(self) -> Self:
        given = [kind for kind in SOURCES if getattr(self, kind, None) is not None]
        if len(given) != 1:
            kinds = any_of(list(SOURCES))
            found = f"has {' and '.join(given)}" if given else "has none"
            raise ValueError(f"a discovery needs the table of one kind, {kinds}; this one {found}")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in SOURCES if getattr(self, kind, None) is not None)

    @property
    def of_kind(self) -> SourceOptions:
        """The options of its kind."""
        return cast("SourceOptions", getattr(self, self.kind))


if TYPE_CHECKING:
    DiscoveryOptions = _Rules
else:
    _KINDS: dict[str, Any] = {kind: (one.options | None, None) for kind, one in SOURCES.items()}
    DiscoveryOptions = create_model("DiscoveryOptions", __base__=_Rules, **_KINDS)
