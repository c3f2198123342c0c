"""The section of a backend: its servers, with the options of strategy, affinity and probe."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    SerializeAsAny,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticKnownError

from hermes_lb.affinity.cookie import CookieOptions
from hermes_lb.affinity.keys import KeyOptions
from hermes_lb.affinity.stores.registry import TableOptions
from hermes_lb.backends.options import OptionalTls, Outlier, Server
from hermes_lb.balancing import STRATEGIES, StrategyOptions, plugins
from hermes_lb.balancing.plugin_check import check_picks
from hermes_lb.config.own import OwnLimits, OwnLog, OwnTimeouts
from hermes_lb.discovery.sources.options import DiscoveryOptions
from hermes_lb.health.probes.base import ProbeOptions
from hermes_lb.health.probes.registry import DEFAULT as DEFAULT_PROBE
from hermes_lb.health.probes.registry import PROBES
from hermes_lb.options.kinds import Kinds
from hermes_lb.options.section import Section
from hermes_lb.options.units import Duration, PositiveDuration, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONS_BY_NAME = {name: one.options for name, one in STRATEGIES.items()}
_STRATEGY_OPTIONS = Kinds("balance", _OPTIONS_BY_NAME)


MODULES = "modules"
"""In pydantic's context: the texts of modules of strategies that were checked before."""


def _texts(info: ValidationInfo) -> Mapping[str, str]:
    texts: Mapping[str, str] = (info.context or {}).get(MODULES, {})
    return texts


def _is_known(name: str, info: ValidationInfo) -> str:
    """Load a strategy of one's own: a reload takes its module as it is by then."""
    if name not in STRATEGIES:
        if not name.startswith(plugins.PREFIX) and not plugins.is_installed_name(name):
            raise PydanticKnownError("literal_error", {"expected": ", ".join(STRATEGIES)})
        plugins.load(name, _texts(info))
    return name


StrategyName = Annotated[
    str,
    AfterValidator(_is_known),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(STRATEGIES)},
                {"type": "string", "pattern": plugins.PYTHON_NAME},
            ]
        }
    ),
]


def _options(given: Any, info: ValidationInfo) -> StrategyOptions:
    """Those of the backend's strategy; none if that is unknown, which is an error of its own."""
    balance = info.data.get("balance")
    if balance is None:
        return StrategyOptions()
    if balance in STRATEGIES:
        return cast("StrategyOptions", _STRATEGY_OPTIONS.validate(balance, given, info.context))
    found, module, _ = plugins.loaded(balance)
    kinds = Kinds("balance", {**_OPTIONS_BY_NAME, balance: found.options}, undescribed=balance)
    options = cast("StrategyOptions", kinds.validate(balance, given, info.context))
    if module not in _texts(info):
        check_picks(balance, found, options)
    return options


_PROBE_OPTIONS = Kinds("probe", {name: one.options for name, one in PROBES.items()})


def _health(given: Any, info: ValidationInfo) -> ProbeOptions:
    options = _PROBE_OPTIONS.validate_own(given, DEFAULT_PROBE, info.context)
    return cast("ProbeOptions", options)


Health = Annotated[
    SerializeAsAny[ProbeOptions],
    PlainValidator(_health),
    WithJsonSchema(_PROBE_OPTIONS.json_schema()),
]

OptionsOfStrategy = Annotated[
    SerializeAsAny[StrategyOptions],
    PlainValidator(_options),
    WithJsonSchema(_STRATEGY_OPTIONS.json_schema()),
]


class Backend(Section):
    """A group of servers any of which can serve a request."""

    balance: StrategyName = "round_robin"
    strategy: OptionsOfStrategy = Field({}, validate_default=True)
    affinity: CookieOptions | None = None
    stick: list[KeyOptions] = Field([])
    pins: TableOptions = TableOptions()
    health: Health | None = None
    outlier: Outlier | None = None
    keep_alive: int = Field(32, ge=0, le=10_000)
    keep_alive_timeout: PositiveDuration = 60.0
    retries: int = Field(3, ge=0, le=100)
    wait_for_server: Duration = 0.0
    max_queue: int = Field(0, ge=0, le=1_000_000)
    timeouts: OwnTimeouts | None = None
    limits: OwnLimits | None = None
    access_log: bool = True
    log: OwnLog | None = None
    tls: OptionalTls = None
    proxy_protocol: Literal["v1", "v2"] | None = None
    protocol: Literal["http/1.1", "h2"] = "http/1.1"
    on_marked_down: Literal["shutdown_sessions"] | None = None
    discovery: DiscoveryOptions | None = None
    servers: list[Server] = Field([])

    _code: plugins.Code | None = PrivateAttr(None)

    @property
    def code(self) -> plugins.Code | None:
        """Of a strategy of one's own, as this was loaded with it."""
        return self._code

    def has_strategy_of(self, other: Backend) -> bool:
        """The same strategy with the same options; one's own: with the same text."""
        mine = self.balance, self.code, self.strategy
        return mine == (other.balance, other.code, other.strategy)

    @property
    def header_keys(self) -> frozenset[bytes]:
        """Names, in lower case, of the fields that the choice of a server depends on."""
        names = list(self.strategy.header_keys)
        for rule in self.stick:
            names += rule.header_keys
        return frozenset(name.lower().encode() for name in names)

    @model_validator(mode="after")
    def _keeps_code(self) -> Self:
        if self.balance not in STRATEGIES:
            self._code = plugins.loaded(self.balance)
        return self

    @model_validator(mode="after")
    def _has_servers(self) -> Self:
        if not self.servers and self.discovery is None:
            raise ValueError("it has no servers: give servers, or a discovery")
        return self

    @model_validator(mode="after")
    def _checks_mark_down(self) -> Self:
        if self.on_marked_down is not None and self.health is None:
            raise ValueError("on_marked_down needs a health table: only checks mark a server down")
        return self

    @model_validator(mode="after")
    def _speaks_its_protocol(self) -> Self:
        if self.protocol != "h2":
            if self.health is not None and self.health.needs_http2:
                raise ValueError('a check by gRPC needs protocol = "h2"')
            return self
        if self.proxy_protocol is not None:
            raise ValueError(
                'with protocol = "h2" a connection is shared by all clients, and proxy_protocol '
                "names one of them: remove one of them, X-Forwarded-For has the address"
            )
        if find_spec("ngh2") is None:
            raise ValueError(
                "protocol = \"h2\" needs the package ngh2: pip install 'hermes-lb[http2]'"
            )
        return self

    @model_validator(mode="after")
    def _certificates_have_names(self) -> Self:
        if self.tls is None or not self.tls.verify or self.tls.server_name:
            return self
        for server in self.servers:
            if isinstance(server.address, UnixAddress) and server.server_name is None:
                raise ValueError(
                    f"{server.name} has no host name to check its certificate for: "
                    "give server_name, there or in tls"
                )
        return self
