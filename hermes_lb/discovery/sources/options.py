"""`[backends.NAME.discovery]`: the table of one kind, and the rules that hold for all kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, create_model, model_validator

from hermes_lb.backends.options import DiscoveredServer, ServerDefaults
from hermes_lb.discovery.sources.base import MOST_SERVERS
from hermes_lb.discovery.sources.registry import SOURCES
from hermes_lb.options.problems import any_of
from hermes_lb.options.section import Section
from hermes_lb.options.units import Duration, PositiveDuration

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.discovery.sources.base import Endpoint, Source


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

    # What `discovery.watch` follows, as `resolve.ResolvedName`.

    @property
    def origin(self) -> str:
        return self.kind

    @property
    def at_first(self) -> dict[str, Endpoint]:
        return {}

    def label(self, backend: str) -> str:
        return backend

    def source(self, rng: Random) -> Source:
        return SOURCES[self.kind](getattr(self, self.kind), rng)

    def server(self, name: str, endpoint: Endpoint) -> DiscoveredServer:
        """The one at `endpoint`. Raises ValidationError."""
        defaults = self.defaults
        return DiscoveredServer.model_validate(
            {
                **defaults.model_dump(),
                "name": name,
                "address": endpoint.address,
                "weight": defaults.weight if endpoint.weight is None else endpoint.weight,
                "backup": endpoint.is_backup,
                "server_name": endpoint.server_name,
                "found_by": self.kind,
                "is_leaving": endpoint.leaves,
            }
        )


if TYPE_CHECKING:
    DiscoveryOptions = _Rules
else:
    _KINDS: dict[str, Any] = {kind: (one.options | None, None) for kind, one in SOURCES.items()}
    DiscoveryOptions = create_model("DiscoveryOptions", __base__=_Rules, **_KINDS)
