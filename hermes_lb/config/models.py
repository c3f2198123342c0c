"""The model of a configuration file: names, types, limits and defaults. No I/O.

The keys are the contract with users, and have HAProxy's and nginx's names where these have one.
`configs/reference.toml` lists them all, which a test checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, PrivateAttr, model_validator

from hermes_lb.config.backend import MODULES, Backend
from hermes_lb.config.error_pages import Pages
from hermes_lb.config.frontend import Frontend
from hermes_lb.config.process import Admin, Limits, Log, Process, Timeouts
from hermes_lb.config.references import check_references
from hermes_lb.options.kinds import INHERITED
from hermes_lb.options.problems import dotted
from hermes_lb.options.section import Name, Section
from hermes_lb.turns.options import StoreOptions

if TYPE_CHECKING:
    from collections.abc import Mapping


class Config(Section):
    """A whole configuration file."""

    process: Process = Process()
    admin: Admin = Admin()
    log: Log = Log()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    error_pages: Pages = Field({})
    store: StoreOptions = StoreOptions()
    frontends: list[Frontend] = Field(min_length=1)
    backends: dict[Name, Backend] = Field(min_length=1)

    _origin: Any = PrivateAttr(None)  # `config.dump.Origin`

    @property
    def origin(self) -> Any:
        """The file that it was made of (`config.dump.Origin`); None: there was none."""
        return self._origin

    def made_of(self, origin: Any) -> Self:
        """The same, with its origin."""
        self._origin = origin
        return self

    @classmethod
    def inherited(
        cls, tables: dict[str, Any], strategy_modules: Mapping[str, str] | None = None
    ) -> Self:
        """The configuration that runs, from a process that may be of an earlier version: options
        which that one accepted and ignored are dropped."""
        context = {INHERITED: True, MODULES: strategy_modules or {}}
        return cls.model_validate(tables, context=context)

    def state(self) -> dict[str, Any]:
        """JSON for `restored`, in another process or after an upgrade."""
        config = self.model_dump(mode="json")
        return {"config": config, "strategy_modules": self.strategy_modules}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """The same, also of code that left out the modules. Raises ValidationError."""
        return cls.inherited(state["config"], state.get("strategy_modules"))

    @property
    def strategy_modules(self) -> dict[str, str]:
        """Of strategies of one's own: the texts of their modules, whatever the files are now."""
        codes = [one.code for one in self.backends.values() if one.code is not None]
        return {code.module: code.text for code in codes if code.text is not None}

    @property
    def backends_with_turns(self) -> frozenset[str]:
        """Names of backends that a route with turns leads to."""
        routes = (route for frontend in self.frontends for route in frontend.routes)
        return frozenset(
            name for route in routes if route.turns is not None for name in route.backend_names
        )

    @property
    def needs_embedded_store(self) -> bool:
        """A route has turns, and no store is configured."""
        return self.store.url is None and bool(self.backends_with_turns)

    def with_store(self, url: str) -> Self:
        """The same with this store of turns."""
        return self.model_copy(update={"store": self.store.model_copy(update={"url": url})})

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        findings = check_references(self.model_dump())
        if findings:
            raise ValueError("; ".join(f"{dotted(path)}: {text}" for path, text in findings))
        return self
