"""A route's options for turns, ready to be applied."""

from __future__ import annotations

from secrets import token_urlsafe
from typing import TYPE_CHECKING

from hermes_lb.proxy.turns.keys import body_session, head_session, header_key, query_key
from hermes_lb.proxy.turns.principal import PrincipalFinder
from hermes_lb.turns.ports import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.proxy.turns.keys import BodySession
    from hermes_lb.turns.options import TurnOptions


class TurnRules:
    """Sizes are bytes, times seconds. Requests keep the rules of their begin over a reload.

    - `find_key`: in a request's head; None: `idempotency` is off.
    - `find_session`: in a head. `find_in_body`: in a JSON body. At most one of them is given.
    - `may_detach`: a turn goes on without its client, for `linger`.
    """

    __slots__ = (
        "body_buffer",
        "find_in_body",
        "find_key",
        "find_session",
        "has_sessions",
        "joins",
        "journal",
        "journal_size",
        "keep",
        "keep_alive",
        "keep_events",
        "key_required",
        "linger",
        "max_event",
        "may_detach",
        "principals",
        "release_on",
        "repeats",
        "repeats_lost",
        "session_required",
        "settle",
        "takeover",
        "waits",
    )

    def __init__(
        self,
        options: TurnOptions,
        backend: str,
        *,
        may_detach: bool,
        linger: float | None = None,
        keep_alive: float | None = None,
        takeover: float | None = None,
    ) -> None:
        """`linger`: another one than that of the options. `keep_alive`: the `sse_keep_alive`.

        `takeover`: seconds within which another server goes on; None: its backend can't.
        """
        self.takeover = takeover
        self.principals = PrincipalFinder(backend, options.principal)
        self.find_key: Callable[[bytes], bytes] | None = None
        if options.idempotency != "off":
            source, _, name = options.key.partition(":")
            self.find_key = query_key(name) if source == "query" else header_key
        self.key_required = options.idempotency == "required"
        self.find_session: Callable[[bytes], bytes] | None = None
        self.find_in_body: Callable[[bytes], BodySession] | None = None
        if options.session is not None:
            kind, _, where = options.session.partition(":")
            if kind == "json":
                self.find_in_body = body_session(where)
            else:
                self.find_session = head_session(options.session)
        self.has_sessions = options.session is not None
        self.session_required = options.session_required
        self.waits = options.busy == "wait"
        self.joins = options.on_duplicate == "join"
        self.repeats_lost = options.on_unknown == "retry"
        self.repeats = options.repeat == "before_first_byte"
        self.journal = options.journal
        self.journal_size = options.journal_size
        self.max_event = options.max_event
        self.linger = options.linger if linger is None else linger
        self.keep = options.keep
        self.keep_alive = keep_alive
        self.keep_events = options.keep_events
        self.settle = options.settle
        self.body_buffer = options.body_buffer
        self.release_on = frozenset(options.release_on)
        self.may_detach = may_detach

    def claim(
        self,
        principal: str,
        *,
        key: str = "",
        session: str = "",
        fingerprint: str = "",
        client_turns: int = 0,
        client_waiters: int = 0,
    ) -> Claim:
        """Of a request with these digests; what else its client's address has here."""
        return Claim(
            principal=principal,
            nonce=token_urlsafe(16),
            key=key,
            session=session,
            fingerprint=fingerprint,
            waits=self.waits,
            keep=self.keep,
            keep_events=self.keep_events,
            settle=self.settle,
            repeats_lost=self.repeats_lost,
            journal_size=self.journal_size,
            linger=self.linger,
            client_turns=client_turns,
            client_waiters=client_waiters,
        )
