"""The configuration of a route and its backend -> its `Policy`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hermes_lb.http.cors import Cors
from hermes_lb.http.field_edits import Removal
from hermes_lb.http.paths import PathRewrite
from hermes_lb.http.templates import REQUEST_VARIABLES, RESPONSE_VARIABLES
from hermes_lb.limits.networks import Networks
from hermes_lb.observe.sampling import sampler_of
from hermes_lb.proxy import phases
from hermes_lb.proxy.local_replies import error_pages
from hermes_lb.proxy.policy import FieldEdits, Policy, Returned
from hermes_lb.proxy.timeouts import PlainTimeouts
from hermes_lb.proxy.variables import Template

if TYPE_CHECKING:
    from collections.abc import Collection

    from hermes_lb import config
    from hermes_lb.limits.per_client import RateLimiter
    from hermes_lb.options.section import Section
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.select import Backend

    Edits = config.RequestHeaders | config.ResponseHeaders

# Keys for which a `Policy` is needed: of a route, and those that a backend may have as well.
_OF_ROUTE = (
    "add_prefix", "allow", "backends", "cors", "deny", "error_pages", "replace_prefix",
    "request_headers", "response_headers", "returns", "strip_prefix",
)  # fmt: skip
_OF_BOTH = ("limits", "log", "timeouts")


class Policies:
    """Makes those of a frontend, by the settings of the present configuration."""

    def __init__(self, context: Context, frontend: str) -> None:
        self._context = context
        self._frontend = frontend

    def of(self, route: config.Route | None, backend: Backend | None) -> Policy | None:
        """None: they have nothing of their own.

        `route`: None for `default_backend`. `backend`: None for a route that answers by itself.
        """
        of_backend = None if backend is None else backend.configured
        if not _has_any(of_backend, _OF_BOTH) and (
            route is None
            or not (_has_any(route, (*_OF_ROUTE, *_OF_BOTH)) or route.retries is not None)
        ):
            return None
        context, owners = self._context, (of_backend, route)
        settings, configured = context.settings, context.settings.configured
        limits, log, timeouts = (
            _merged(section, [getattr(owner, name, None) for owner in owners])
            for name, section in (
                ("limits", configured.limits),
                ("log", configured.log),
                ("timeouts", configured.timeouts),
            )
        )
        has_log = any(getattr(owner, "log", None) for owner in owners)
        retries = 0 if of_backend is None else of_backend.retries
        policy = Policy(
            "" if route is None else route.conditions,
            phase_limits=phases.limits(PlainTimeouts(**timeouts)),
            most_in_body=limits["body_size"] or sys.maxsize,
            most_for_retry=limits["retry_buffer"],
            retries=retries if route is None or route.retries is None else route.retries,
            sampler=(
                sampler_of(log["sample"], log["slow"]) if has_log else context.log.recorder.sampler
            ),
            rates=self._rates(route, backend, limits),
            error_pages=settings.error_pages,
        )
        if route is not None:
            _add_rules(policy, route)
        return policy

    def _rates(
        self, route: config.Route | None, backend: Backend | None, limits: dict[str, Any]
    ) -> RateLimiter | None:
        """That of the route if it says something of rates, else of its backend, else of all."""
        owner = ""
        if backend is not None and _says_rate(backend.configured.limits):
            owner = f"backend {backend.name}"
        if route is not None and _says_rate(route.limits):
            owner = f"route {self._frontend} {route.conditions}"
        clients = self._context.client_limits
        if not owner:
            return clients.rates
        now = self._context.clock()
        return clients.own_rates(owner, limits["request_rate"], limits["request_burst"], now)


def _has_any(owner: Section | None, keys: Collection[str]) -> bool:
    return owner is not None and any(getattr(owner, key) for key in keys)


def _says_rate(limits: config.OwnLimits | None) -> bool:
    return limits is not None and (
        limits.request_rate is not None or limits.request_burst is not None
    )


def _merged(section: Section, own: list[Section | None]) -> dict[str, Any]:
    """The values of `section`, but for those that `own` has; the last one wins."""
    values = dict(section)
    for one in own:
        values.update({key: value for key, value in one or () if value is not None})
    return values


def _add_rules(policy: Policy, route: config.Route) -> None:
    if route.allow:
        policy.allowed = Networks(route.allow)
    if route.deny:
        policy.denied = Networks(route.deny)
    if (cors := route.cors) is not None:
        policy.cors = Cors(
            cors.origins, cors.methods, cors.headers, cors.expose, cors.max_age,
            credentials=cors.credentials,
        )  # fmt: skip
    if (own := route.returns) is not None:
        location = None if own.location is None else Template(own.location, REQUEST_VARIABLES)
        body = (own.body or "").encode()
        policy.returned = Returned(own.status, location, body, own.content_type.encode())
    policy.path = _path_rewrite(route)
    policy.request = _field_edits(route.request_headers, REQUEST_VARIABLES)
    policy.response = _field_edits(route.response_headers, RESPONSE_VARIABLES)
    policy.error_pages = {**policy.error_pages, **error_pages(route.error_pages)}


def _path_rewrite(route: config.Route) -> PathRewrite | None:
    old, new = route.strip_prefix, ""
    if route.replace_prefix is not None:
        old, new = route.path or route.path_prefix, route.replace_prefix
    if old is None and route.add_prefix is None:
        return None
    return PathRewrite(old or "", new, route.add_prefix or "")


def _field_edits(edits: Edits | None, known: Collection[str]) -> FieldEdits | None:
    if edits is None:
        return None
    gone = [*edits.remove, *edits.set]
    written = [
        [(name.encode(), Template(text, known)) for name, text in fields.items()]
        for fields in (edits.set, edits.add)
    ]
    return FieldEdits(Removal(gone) if gone else None, *written)
