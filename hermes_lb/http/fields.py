"""What a header field means to a proxy: is it forwarded, interpreted, or dropped?

A head's names, in their order, decide what becomes of each field; `HeaderPlan` stores that.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hermes_lb.http.bounded_cache import BoundedCache, SizedCache

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


# The kinds of fields that are not simply forwarded. Plain integers: an enum's member access costs
# more than the comparison, once per field and request.
DROP: Final = 1
HOST: Final = 2
CONTENT_LENGTH: Final = 3
TRANSFER_ENCODING: Final = 4
CONNECTION: Final = 5
UPGRADE: Final = 6
EXPECT: Final = 7
COOKIE: Final = 8
VIA: Final = 9
REQUEST_ID: Final = 10
FORWARDED_FOR: Final = 11
FORWARDED_HOST: Final = 12
FORWARDED_PROTO: Final = 13
FORWARDED: Final = 14  # RFC 7239
FORWARDED_MORE: Final = 15  # what else a proxy before us may say of its client
TE: Final = 16
# Those from here on are forwarded, but looked at on the way;
NOTED: Final = 17
SET_COOKIE: Final = 17
MAX_FORWARDS: Final = 18
# and of those from here on, `HeaderPlan` alone takes notice.
PASSIVE: Final = 19
IDEMPOTENCY_KEY: Final = 19
CACHE_FIELD: Final = 20  # its value says whether a shared cache may store the response
VALIDATOR: Final = 21  # that it is there says so
TRACEPARENT: Final = 22
TRACESTATE: Final = 23
SELECTS: Final = 24  # by configuration: its value selects the route or the server

# RFC 9110 section 7.6.1: what belongs to one hop only. A body's framing is re-emitted by us. Some
# trailers are dropped, so what announces them ends here too; of TE, "trailers" is written again.
_HOP_BY_HOP = {
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
}

REQUEST_FIELDS = {
    **_HOP_BY_HOP,
    b"proxy-authorization": DROP,
    b"te": TE,
    b"http2-settings": DROP,
    b"host": HOST,
    b"expect": EXPECT,
    b"cookie": COOKIE,
    b"via": VIA,
    b"x-request-id": REQUEST_ID,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-host": FORWARDED_HOST,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-real-ip": DROP,
    b"forwarded": FORWARDED,
    b"max-forwards": MAX_FORWARDS,
    b"idempotency-key": IDEMPOTENCY_KEY,
    b"traceparent": TRACEPARENT,
    b"tracestate": TRACESTATE,
}

RESPONSE_FIELDS = {
    **_HOP_BY_HOP,
    b"set-cookie": SET_COOKIE,
    b"cache-control": CACHE_FIELD,
    b"pragma": CACHE_FIELD,
    b"expires": VALIDATOR,
    b"etag": VALIDATOR,
    b"last-modified": VALIDATOR,
}

# A client may name hop-by-hop fields of its own in Connection, but never take away what the
# request means, or what we and the servers rely on (RFC 9110 section 7.6.1; "hop-by-hop abuse").
NEVER_NOMINATED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"authorization", b"cookie", b"set-cookie",
     b"cache-control", b"content-type", b"via", b"x-request-id", b"x-real-ip", b"forwarded",
     b"idempotency-key", b"mcp-session-id", b"last-event-id", b"traceparent", b"tracestate")
)  # fmt: skip
_SAID_BY_PROXIES = (b"x-forwarded-", b"x-ssl-client-")
NEVER_NOMINATED_PREFIXES = (*_SAID_BY_PROXIES, b"x-hermes-")

BLANKS: Final = b" \t"  # that may stand around a value (RFC 9110 section 5.5)
# A name, as a pattern (section 5.6.2, `token`).
TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"

_ONCE = (HOST, CONTENT_LENGTH, CONNECTION, TRANSFER_ENCODING)


class HeaderPlan:
    """What to do with the fields of a head, decided from their names alone.

    The same client library, and the same server, send the same names in the same order time after
    time, so a plan is made once and then serves every such head: the fields that mean something
    to us are found by their position, and those that are forwarded are written by one template.

    - `host`, `content_length`, `connection`, `transfer_encoding`: their positions, -1 if absent.
    - `others`: (kind, position) of all else that is interpreted, second ones of these too.
    - `pick` and `template`: of the values, those that are forwarded, and how; `pick` None: all.
    - `cache_fields`: (name in lower case, position) of those that say what a cache may do.
    - `has_validator`, `has_idempotency_key`: what the names alone answer.
    - `has_date`: a Date is among those that are forwarded.
    - `known`: as it was given, for a plan that leaves out more.
    - `traceparents`: positions of these, or of none; None if there is no tracestate either.
    """

    __slots__ = (
        "cache_fields",
        "connection",
        "content_length",
        "has_date",
        "has_idempotency_key",
        "has_validator",
        "host",
        "known",
        "others",
        "pick",
        "template",
        "traceparents",
        "transfer_encoding",
    )

    def __init__(
        self,
        names: tuple[bytes, ...],
        known: Mapping[bytes, int],
        without: Collection[bytes] = (),
        omit: Collection[int] = (),
    ) -> None:
        """`known`: name in lower case -> kind. `without` (names) and `omit` (positions) go."""
        self.known = known
        lower = [name.lower() for name in names]
        kinds = [kind_of(name, known) for name in lower]
        numbered = range(len(names))
        first = {kind: kinds.index(kind) for kind in _ONCE if kind in kinds}
        self.host = first.get(HOST, -1)
        self.content_length = first.get(CONTENT_LENGTH, -1)
        self.connection = first.get(CONNECTION, -1)
        self.transfer_encoding = first.get(TRANSFER_ENCODING, -1)
        self.others = tuple(
            (kind, i)
            for i, kind in enumerate(kinds)
            if kind is not None and DROP < kind < PASSIVE and first.get(kind) != i
        )
        self.cache_fields = tuple((lower[i], i) for i in numbered if kinds[i] == CACHE_FIELD)
        self.has_validator = VALIDATOR in kinds
        self.has_idempotency_key = IDEMPOTENCY_KEY in kinds
        has_trace = TRACEPARENT in kinds or TRACESTATE in kinds
        self.traceparents = (
            tuple(i for i in numbered if kinds[i] == TRACEPARENT) if has_trace else None
        )
        forwarded = [
            i
            for i in numbered
            if (kinds[i] or NOTED) >= NOTED and lower[i] not in without and i not in omit
        ]
        self.has_date = any(lower[i] == b"date" for i in forwarded)
        # "%" may stand in a name (RFC 9110 section 5.6.2).
        template = b"".join(names[i].replace(b"%", b"%%") + b": %b\r\n" for i in forwarded)
        self.template = template
        self.pick: Callable[[tuple[bytes, ...]], Any] | None
        if len(forwarded) == len(names):
            self.pick = None
        else:
            self.pick = itemgetter(*forwarded) if forwarded else _pick_none

    def forwarded(self, values: tuple[bytes, ...]) -> bytes:
        """The fields that are forwarded, each with its CRLF; `values` in the order of the names."""
        pick = self.pick
        return self.template % (values if pick is None else pick(values))


def _pick_none(values: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return ()


def is_forwarded(name: bytes) -> bool:
    """True if a request's field of this name reaches the server as it came."""
    return (kind_of(name.lower(), REQUEST_FIELDS) or NOTED) >= NOTED


def selecting(known: Mapping[bytes, int], names: Collection[bytes]) -> Mapping[bytes, int]:
    """`known`, with further `names`, in lower case, whose values select a route or a server.

    These mean something, so the names that CGI and WSGI servers read as the same are dropped, also
    where the name itself has an underscore.
    """
    own = {name: SELECTS for name in names if kind_of(name, known) is None}
    twins = {name.replace(b"_", b"-"): DROP for name in own}
    return {**twins, **own, **known}


def kind_of(lower: bytes, known: Mapping[bytes, int]) -> int | None:
    """What a field of this name, in lower case, is to a proxy; None: nothing, it is forwarded."""
    kind = known.get(lower)
    if kind is None:
        # CGI and WSGI servers read Content_Length as Content-Length. nginx drops every name with
        # an underscore by default; we drop those that would pass for one that means something.
        read_as = lower.replace(b"_", b"-")
        is_twin = read_as in known and read_as != lower
        if is_twin or read_as.startswith(b"proxy-") or read_as == b"proxy":
            return DROP  # credentials or settings of a proxy: for one hop
        if read_as.startswith(_SAID_BY_PROXIES):
            return FORWARDED_MORE if read_as == lower else DROP
    return kind


# Bytes that a name costs however short it is: a head may have a hundred of one letter.
_PER_NAME = 48


class HeaderPlans(SizedCache[tuple[bytes, ...], HeaderPlan]):
    """Field names of a head, in their order -> its plan."""

    def __init__(self, known: Mapping[bytes, int]) -> None:
        super().__init__(most=2048, longest=8192, room=2 * 1024 * 1024)
        self._known = known

    def __missing__(self, names: tuple[bytes, ...]) -> HeaderPlan:
        size = sum(map(len, names)) + _PER_NAME * len(names)
        return self.remember(names, size, HeaderPlan(names, self._known))


class Connection(NamedTuple):
    """The options of a Connection field (RFC 9110 section 7.6.1)."""

    close: bool
    keep_alive: bool
    upgrade: bool
    nominated: frozenset[bytes]  # fields that end at this hop, and may


class _Connections(BoundedCache[bytes, Connection]):
    """The value of a Connection field -> its options."""

    def __missing__(self, value: bytes) -> Connection:
        options = frozenset(o for part in value.lower().split(b",") if (o := part.strip(BLANKS)))
        nominated = options - _KNOWN_OPTIONS - NEVER_NOMINATED
        connection = Connection(
            b"close" in options,
            b"keep-alive" in options,
            b"upgrade" in options,
            frozenset(o for o in nominated if not o.startswith(NEVER_NOMINATED_PREFIXES)),
        )
        return self.remember(value, len(value), connection)


_KNOWN_OPTIONS = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))
connections = _Connections(most=1024, longest=128)


def joined_connection(plan: HeaderPlan, values: tuple[bytes, ...]) -> bytes:
    """All Connection fields as one (RFC 9110 section 5.3)."""
    first = values[plan.connection]
    more = [values[position] for kind, position in plan.others if kind == CONNECTION]
    return b",".join([first, *more]) if more else first


def parse_content_length(value: bytes) -> int | None:
    """Exactly `1*DIGIT` (RFC 9110 section 8.6), else None. `int()` accepts more.

    18 digits are below 2^63, beyond which languages with 64-bit integers read another number.
    """
    return int(value) if value.isdigit() and len(value) <= 18 else None
