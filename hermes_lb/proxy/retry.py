"""What becomes of a request whose server failed before the response head: the retry table.

`decide` is pure. docs/life-of-a-request.md has its rules as a table.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.errors import ConnectTimeout, Retry

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server
    from hermes_lb.errors import ServerFailed


class Attempt(NamedTuple):
    """An attempt that failed at `server`.

    - `is_stale`: a kept connection was found closed, or the server has refused a stream of HTTP/2,
      which says nothing of its health.
    - `can_repeat`: the request may be executed twice.
    - `is_whole`: all of it can be sent again.
    - `is_pinned`: its session lives at `server`. `is_strict`: and no other one may serve it.
    - `tried`: servers that failed before. `passed_over`: the one of them that was only stale.
    - `retries`, `most_retries`: so far, and allowed.
    """

    server: Server
    is_stale: bool
    can_repeat: bool
    is_whole: bool
    is_pinned: bool
    is_strict: bool
    tried: tuple[Server, ...]
    passed_over: Server | None
    retries: int
    most_retries: int


class Action(Enum):
    """What happens next."""

    FAIL = "the client gets the error"
    SAME = "the same choice again, at once: the session stays where it is pinned"
    PAUSE = "the same server again, after a pause: it refused, and may be restarting"
    OTHER = "another server, at once"


class Decision(NamedTuple):
    """`tried`, `passed_over`: as the next attempt has them."""

    action: Action
    tried: tuple[Server, ...]
    passed_over: Server | None


def decide(error: ServerFailed, attempt: Attempt, pool: Pool, now: float) -> Decision:
    """Retry on another server; a pinned one is left only for the last retry (HAProxy).

    A server whose kept connection was stale may be restarting, so others are asked first. It has
    refused nothing, though: when all others have been tried, it is asked again.

    Without another server the same one is tried again, after a pause if it refused. A dial that
    timed out has waited long enough.
    """
    server, is_stale, is_pinned = attempt.server, attempt.is_stale, attempt.is_pinned
    before = attempt.tried, attempt.passed_over
    may_repeat = error.retry is Retry.SAFE or (
        error.retry is Retry.REPEATABLE_ONLY and attempt.can_repeat
    )
    if not (may_repeat and attempt.is_whole and attempt.retries < attempt.most_retries):
        return Decision(Action.FAIL, *before)
    is_last = attempt.retries + 1 >= attempt.most_retries
    tried, passed_over = (*attempt.tried, server), attempt.passed_over
    others = pool.may_any_serve(tried, now)
    if passed_over is not None and not others:
        tried = tuple(other for other in tried if other is not passed_over)
        passed_over = None
        others = pool.may_any_serve(tried, now)
    # A server whose connection was only stale is better than those that are out for failures.
    others = others or (not is_stale and pool.can_wait(tried))
    if is_pinned and attempt.is_strict:
        others, is_last = False, False
    stays = (
        error.retry is Retry.SAFE
        and server.may_serve(now)
        and (server.is_only_server or (is_pinned and not is_last))
    )
    if not (others or stays or is_stale):
        return Decision(Action.FAIL, attempt.tried, passed_over)
    if (is_stale and (is_pinned or not others)) or (stays and isinstance(error, ConnectTimeout)):
        return Decision(Action.SAME, attempt.tried, passed_over)
    if stays:
        return Decision(Action.PAUSE, attempt.tried, passed_over)
    return Decision(Action.OTHER, tried, server if is_stale else passed_over)
