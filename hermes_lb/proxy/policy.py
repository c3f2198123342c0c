"""What a route and its backend have of their own, resolved: no look-up per request.

Most routes have nothing of it, and cost nothing more. In this order:

    deny, allow          403
    CORS                 a preflight is answered
    return               an answer, or a redirect
    backends             the choice by weight
    limits               body_size, request_rate
    prefixes, fields     the head for the servers, once; a retry sends the same
    response fields      of whatever is answered; then CORS
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from hermes_lb.errors import RequestRefused
from hermes_lb.http import cors
from hermes_lb.http.field_edits import lines_of
from hermes_lb.proxy.local_replies import LocalReply
from hermes_lb.proxy.settings import BodyLimits

if TYPE_CHECKING:
    from hermes_lb.http.cors import Cors
    from hermes_lb.http.field_edits import Removal
    from hermes_lb.http.paths import PathRewrite
    from hermes_lb.limits.networks import Networks
    from hermes_lb.limits.per_client import RateLimiter
    from hermes_lb.observe.sampling import Sampler
    from hermes_lb.proxy.local_replies import ErrorPages
    from hermes_lb.proxy.split import Split
    from hermes_lb.proxy.variables import Asked, Template


class FieldEdits:
    """Of one head: fields are removed, then set, then added."""

    __slots__ = ("_added", "_removal", "_set")

    def __init__(
        self,
        removal: Removal | None,
        set_: list[tuple[bytes, Template]],
        added: list[tuple[bytes, Template]],
    ) -> None:
        """`removal`: of the names that are set, too."""
        self._removal = removal
        self._set = set_
        self._added = added

    def apply(self, lines: bytes, asked: Asked, *, again: bool = False) -> bytes:
        """`again`: fields were added to these lines before, for another request."""
        if self._removal is not None:
            lines = self._removal.apply(lines)
        fields = self._set if again else [*self._set, *self._added]
        return lines + lines_of([(name, template.fill(asked)) for name, template in fields])


class Returned:
    """An answer of a route's own."""

    __slots__ = ("_body", "_content_type", "_location", "_status")

    def __init__(
        self, status: int, location: Template | None, body: bytes, content_type: bytes
    ) -> None:
        self._status = status
        self._location = location
        self._body = body
        self._content_type = content_type

    def reply(self, asked: Asked, pages: ErrorPages) -> LocalReply:
        """Raises RequestRefused if it needs the host of a request that has none."""
        status = self._status
        if self._location is not None:
            if self._location.needs_host and not asked.head.host_name:
                raise RequestRefused(400, "a redirect needs a host, and this request has none")
            return LocalReply(status, b"Location: %b\r\n" % self._location.fill(asked))
        is_head = asked.head.method == b"HEAD"
        message = b"%d %b\n" % (status, HTTPStatus(status).phrase.encode())
        body, kind = self._body, self._content_type
        if status >= 400 and not body:
            kind, body = pages.get(status, (kind, message))
        if not body:
            return LocalReply(status, b"", is_head=is_head)
        return LocalReply(status, b"Content-Type: %b\r\n" % kind, body, is_head, message)


class Policy(BodyLimits):
    """Ready to be applied to an exchange.

    `phase_limits`, `retries`, `sampler`, `rates` and the sizes are the route's own, else its
    backend's, else the global ones.
    """

    __slots__ = (
        "allowed",
        "cors",
        "denied",
        "error_pages",
        "name",
        "path",
        "phase_limits",
        "rates",
        "request",
        "response",
        "retries",
        "returned",
        "sampler",
        "split",
    )

    def __init__(
        self,
        name: str,
        *,
        phase_limits: list[float],
        most_in_body: int,
        most_for_retry: int,
        retries: int,
        sampler: Sampler | None,
        rates: RateLimiter | None,
        error_pages: ErrorPages,
    ) -> None:
        self.name = name
        self.phase_limits = phase_limits
        self.most_in_body = most_in_body
        self.most_for_retry = most_for_retry
        self.retries = retries
        self.sampler = sampler
        self.rates = rates
        self.error_pages = error_pages
        self.allowed: Networks | None = None
        self.denied: Networks | None = None
        self.cors: Cors | None = None
        self.returned: Returned | None = None
        self.split: Split | None = None
        self.path: PathRewrite | None = None
        self.request: FieldEdits | None = None
        self.response: FieldEdits | None = None

    def answer(self, asked: Asked) -> LocalReply | None:
        """The answer to a request for which no server is needed.

        Raises RequestRefused for one that is not allowed.
        """
        address, head = asked.client_address, asked.head
        if self.denied is not None and address in self.denied:
            raise RequestRefused(403, "this address is denied")
        if self.allowed is not None and address not in self.allowed:
            raise RequestRefused(403, "this address is not allowed")
        if (
            self.cors is not None
            and head.method == b"OPTIONS"
            and cors.origin_of(head.forwarded)
            and cors.is_preflight(head.forwarded)
        ):
            return LocalReply(204, self.cors.preflight(head.forwarded))
        if self.returned is not None:
            return self.returned.reply(asked, self.error_pages)
        return None

    def request_head(self, request_head: bytes, asked: Asked) -> bytes:
        """A head for the servers, with the path and the fields of this route."""
        line, _, rest = request_head.partition(b"\r\n")
        if self.path is not None:
            method, target, version = line.split(b" ")
            line = b" ".join((method, self.path.apply(target), version))
        if self.request is not None:
            rest = self.request.apply(rest[:-2], asked) + b"\r\n"
        return b"%b\r\n%b" % (line, rest)

    def response_fields(
        self, fields: bytes, asked: Asked, origin: bytes, *, again: bool = False
    ) -> bytes:
        """`origin`: of the page whose request it is. `again`: it is a stored response."""
        if self.response is not None:
            fields = self.response.apply(fields, asked, again=again)
        if self.cors is not None and asked.status != 101:
            fields = self.cors.applied(fields, origin)
        return fields
