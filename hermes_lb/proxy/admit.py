"""May a request be served, and by which backend? The request's head, rewritten for the servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.errors import RequestRefused
from hermes_lb.http import build_request, trusted_identity_fields
from hermes_lb.http.cors import origin_of
from hermes_lb.observe.escaping import capture
from hermes_lb.proxy.local_replies import as_final_recipient, redirect
from hermes_lb.proxy.resume import ACCEPTS_HANDOVER, can_insert
from hermes_lb.proxy.turns.admission import open_turn
from hermes_lb.proxy.variables import scheme_of
from hermes_lb.tls.client_certificate import describes_certificate

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.http import RequestHead
    from hermes_lb.http.request import RareFields
    from hermes_lb.proxy.destination import Destination
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.policy import Policy
    from hermes_lb.proxy.ports import Peer
    from hermes_lb.proxy.settings import BodyLimits


def admit(exchange: Exchange, now: float) -> bool:
    """Choose the backend, and make the head for its servers. False: it was answered here."""
    context, head, peer = exchange.context, exchange.head, exchange.peer
    frontend, rare = peer.frontend, head.rare
    try:
        recorder = context.log.recorder
        if recorder.captures:
            exchange.captured = capture(head.forwarded)
        if frontend.redirect is not None and not _used_tls(peer, head):
            reply = redirect(head, frontend.redirect)
            exchange.reply(reply, "LR", may_keep=exchange.may_keep_client)
            return False
        if (destination := frontend.router.route(head)) is None:
            raise RequestRefused(404, "no route matched")
        if rare is not None and frontend.pseudonym in b",".join(rare.via):
            raise RequestRefused(508, "loop detected")
        limits: BodyLimits = context.settings
        rates = context.client_limits.rates
        policy: Policy | None = destination.policy
        if policy is not None:
            destination = _by_policy(exchange, destination, policy, now)
            if destination is None:
                return False
            if (policy := exchange.policy) is not None:  # of the backend that was chosen
                limits, rates = policy, policy.rates
        exchange.backend, exchange.is_logged, exchange.rules, _, _ = destination
        if head.method == b"TRACE" and not frontend.allows_trace:
            raise RequestRefused(405, "TRACE is not served")
        if head.length > limits.most_in_body:
            raise RequestRefused(413, "the request body is too large")
        backend = destination.backend
        if head.cookies is not None and backend.affinity is not None:
            _read_cookie(exchange, backend.affinity, head.cookies, now)
        identity, forwarded_host = peer.identity, head.host
        if peer.is_trusted:
            identity, forwarded_host = _identity_from_proxy(exchange, head)
        if rates is not None and (wait := rates.acquire(exchange.client_address, now)):
            raise RequestRefused(429, "too many requests from this address", retry_after=wait)
        if not head.request_id:
            head.request_id = context.identity.new_request_id()
        if recorder.spans is not None:
            recorder.spans.begin(head)
        elif not head.trace_id and recorder.makes_traces:
            context.traces.start(head)
        host, via = head.host or backend.host, frontend.via[head.version]
        exchange.request_head = build_request(head, host, identity, forwarded_host, via)
        rules = exchange.rules
        if rules is not None and rules.resumes and can_insert(exchange.client, head.method):
            exchange.request_head = exchange.request_head[:-2] + ACCEPTS_HANDOVER + b"\r\n"
        if head.upgrade and backend.dialer.speaks_http2:
            exchange.must_dial = True  # on a connection by HTTP/1.1
        if backend.has_turns and not open_turn(exchange, rules, context):
            return False
        if policy is not None:  # behind the turn, whose key and whose principal are the client's
            exchange.request_head = policy.request_head(exchange.request_head, exchange)
        head.forwarded = b""  # a stream lasts for minutes, and no longer needs it
        if rare is not None and rare.hops_left == 0:
            reply = as_final_recipient(head.method, exchange.request_head)
            exchange.reply(reply, "LR", may_keep=exchange.may_keep_client)
            return False
    except RequestRefused as error:
        exchange.refuse(error)
        return False
    return True


def _by_policy(
    exchange: Exchange, destination: Destination, policy: Policy, now: float
) -> Destination | None:
    """What the route has of its own, before a server is looked for. None: it was answered."""
    head = exchange.head
    exchange.is_logged, exchange.policy = destination.is_logged, policy
    if exchange.peer.is_trusted and head.rare is not None:
        exchange.client_address = _real_client(exchange.peer, head.rare)
    if policy.cors is not None:
        exchange.origin = origin_of(head.forwarded)
    reply = policy.answer(exchange)
    if reply is not None:
        exchange.reply(reply, "LR", may_keep=exchange.may_keep_client)
        return None
    if policy.split is not None:
        choice = policy.split.choose(head, exchange.client_address, now)
        destination = destination.choices[choice]
        exchange.policy = policy = destination.policy or policy
    exchange.limits = policy.phase_limits
    return destination


def _used_tls(peer: Peer, head: RequestHead) -> bool:
    return scheme_of(head, peer) == b"https"


def _read_cookie(
    exchange: Exchange, affinity: CookieAffinity, cookies: list[bytes], now: float
) -> None:
    cookie, exchange.head.cookies = affinity.extract(cookies)
    if cookie is not None:
        wall_clock = exchange.context.wall_clock
        seconds = wall_clock.seconds_since_1970(now) if affinity.has_dates else 0
        exchange.reading = affinity.read(cookie, seconds)
        exchange.pinned_to = exchange.reading.server


def _real_client(peer: Peer, said: RareFields) -> str:
    return peer.frontend.real_client(said.forwarded_for, peer.address)


def _identity_from_proxy(exchange: Exchange, head: RequestHead) -> tuple[bytes, bytes]:
    """The client's identity and host, by the trusted proxy before us."""
    peer, rare = exchange.peer, head.rare
    if rare is not None:
        exchange.client_address = _real_client(peer, rare)
    identity, host = trusted_identity_fields(
        head, peer.address, exchange.client_address, peer.scheme
    )
    if peer.certificate and not (rare and describes_certificate(rare)):
        identity = peer.certificate + identity
    return identity, host
