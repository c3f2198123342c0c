"""What a route says of its streams and turns, ready to be applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from hermes_lb.proxy.turns.rules import TurnRules

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.proxy.select import Backend


class StreamRules(NamedTuple):
    """A route's rules for its streams; times are seconds.

    `turns`: for its turns. `named_turns`: the routes of the frontend that have some, where a path
    names turns.
    """

    resumes: bool
    attempts: int
    timeout: float
    keep_alive: float | None
    on_disconnect: Literal["abort", "detach", "drain"]
    disconnect_timeout: float
    strips_ids: bool = False
    turns: TurnRules | None = None
    named_turns: tuple[NamedTurns, ...] = ()


class NamedTurns(NamedTuple):
    """A route whose turns are found by their ids."""

    backend: Backend
    rules: StreamRules
    turns: TurnRules


def stream_rules(route: config.Route) -> StreamRules | None:
    """None: this route's streams are like all other responses."""
    leaves = route.when_client_leaves
    turns = None
    if route.turns is not None:
        linger = route.disconnect_timeout if leaves == "drain" else None
        turns = TurnRules(
            route.turns,
            route.backend_names[0],  # of several, so that a key finds its turn from each of them
            may_detach=leaves != "abort",
            linger=linger,
            keep_alive=route.sse_keep_alive,
            takeover=route.resume_timeout if route.resume else None,
        )
    if not (route.resume or route.sse_keep_alive or leaves != "abort" or turns is not None):
        return None
    return StreamRules(
        route.resume,
        route.resume_attempts,
        route.resume_timeout,
        route.sse_keep_alive if turns is None else None,
        leaves,
        route.disconnect_timeout,
        route.resume_ids == "strip",
        turns,
    )


def rules_of_named_turns(turns: tuple[NamedTurns, ...]) -> StreamRules:
    """For the path at which turns are found by their ids."""
    return StreamRules(False, 0, 0.0, None, "abort", 0.0, named_turns=turns)
