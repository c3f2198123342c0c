"""Where a request goes, by its route."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hermes_lb.proxy.policy import Policy
    from hermes_lb.proxy.select import Backend
    from hermes_lb.proxy.stream_rules import StreamRules


class Destination(NamedTuple):
    """A backend; whether the access log shows the request; what holds for its streams.

    `policy`: what the route and the backend have of their own; None: all is as for any request,
    and nothing more is done. `choices`: what its `split` chooses from.
    """

    backend: Backend
    is_logged: bool
    rules: StreamRules | None
    policy: Policy | None = None
    choices: tuple[Destination, ...] = ()
