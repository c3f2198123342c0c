"""Generated HTTP/1 messages: valid ones with their meaning, and such with bytes changed."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from tests.support.cuts import cut

_TCHAR = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
tokens = st.text(_TCHAR, min_size=1, max_size=10).map(str.encode)
values = (
    st.lists(st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100), *b" \t,;="]), max_size=20)
    .map(bytes)
    .map(lambda value: value.strip(b" \t"))
)
spaces = st.sampled_from([b"", b" ", b" ", b"\t", b"  "])
bodies = st.binary(max_size=20)

# Fields that only the two ends use: none is a spelling of one that a proxy knows.
_own_fields = st.tuples(
    st.one_of(
        tokens.map(lambda token: b"X-Own-" + token),
        st.sampled_from(
            [b"Accept", b"User-Agent", b"Authorization", b"Idempotency-Key", b"Mcp-Session-Id",
             b"Last-Event-ID", b"Origin", b"Referer", b"Content-Encoding", b"ETag", b"Date"]
        ),
    ),
    values,
)  # fmt: skip
_noted_fields = st.sampled_from(
    [(b"Set-Cookie", b"a=b"), (b"Cache-Control", b"no-store"), (b"Content-Type", b"text/plain")]
)

# Fields that end here, whatever Connection says.
_HOP_BY_HOP = [
    (b"Keep-Alive", b"timeout=5"), (b"TE", b"trailers"), (b"Trailer", b"X-T"),
    (b"Proxy-Connection", b"keep-alive"), (b"Proxy-Connection", b"close"), (b"Upgrade", b"h2c"),
    (b"Content_Length", b"7"), (b"Transfer_Encoding", b"chunked"),
]  # fmt: skip
_HOP_BY_HOP_REQUEST = [
    *_HOP_BY_HOP, (b"Proxy-Authorization", b"Basic eA=="), (b"HTTP2-Settings", b"AAMAAABk"),
    (b"X-Forwarded-For", b"203.0.113.9"), (b"X-Forwarded-Host", b"evil"),
    (b"X-Forwarded-Proto", b"https"), (b"X-Real-IP", b"203.0.113.9"), (b"Forwarded", b"for=x"),
    (b"X_Forwarded_For", b"203.0.113.9"), (b"X-Real_IP", b"203.0.113.9"),
]  # fmt: skip

# Names that Connection can't take away.
PROTECTED = {
    b"authorization", b"cookie", b"set-cookie", b"cache-control", b"content-type", b"host",
    b"content-length", b"transfer-encoding", b"idempotency-key", b"mcp-session-id",
    b"last-event-id", b"x-forwarded-for", b"via",
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One field line: what it is for, and how it is written."""

    role: str  # "own": end to end; "cookie"; "" for those that say something to the proxy
    name: bytes
    value: bytes
    wire: bytes


@dataclass(frozen=True)
class Message:
    """A message as its sender meant it, and the bytes it became."""

    head: bytes
    body: bytes  # in the head's framing
    payload: bytes
    fields: list[Field]
    nominated: set[bytes]
    method: bytes = b""  # in a response: of the request that it answers
    target: bytes = b""
    status: int = 0
    reason: bytes = b""
    version: int = 1

    @property
    def end_to_end(self) -> list[tuple[bytes, bytes]]:
        """The fields that have to arrive, in order, with their names in lower case."""
        gone = self.nominated - PROTECTED
        own = [(f.name.lower(), f.value) for f in self.fields if f.role == "own"]
        return [(name, value) for name, value in own if name not in gone]

    @property
    def cookies(self) -> list[bytes]:
        return [field.value for field in self.fields if field.role == "cookie"]

    @property
    def expects_continue(self) -> bool:
        return any(field.name == b"Expect" for field in self.fields)


def _odd_case(draw: st.DrawFn, name: bytes) -> bytes:
    way = draw(st.sampled_from(["as it is", "as it is", "lower", "upper", "swap"]))
    return {"lower": name.lower(), "upper": name.upper(), "swap": name.swapcase()}.get(way, name)


def _field(draw: st.DrawFn, name: bytes, value: bytes, role: str = "") -> Field:
    behind = draw(spaces) if role == "own" else b""
    wire = b"%b:%b%b%b\r\n" % (_odd_case(draw, name), draw(spaces), value, behind)
    return Field(role, name, value, wire)


def _connection(draw: st.DrawFn, fields: list[Field]) -> tuple[list[Field], set[bytes]]:
    """Connection fields, and the names that they nominate, in lower case."""
    own = [field.name for field in fields if field.role == "own"]
    options = st.one_of(
        st.sampled_from([b"close", b"keep-alive", b"TE", b"Upgrade", b"x-none"]),
        st.sampled_from(sorted(PROTECTED)),
        st.sampled_from(own or [b"X-None"]),
    )
    connections, nominated = [], set()
    for names in draw(st.lists(st.lists(options, max_size=3), max_size=2)):
        comma = draw(st.sampled_from([b", ", b",", b" , "]))
        value = comma.join(_odd_case(draw, name) for name in names)
        connections.append(_field(draw, b"Connection", value))
        nominated.update(name.lower() for name in names)
    return connections, nominated


def _framing(draw: st.DrawFn, kinds: list[str]) -> tuple[list[Field], bytes, bytes]:
    """-> the field that tells, the body in its framing, the payload."""
    kind = draw(st.sampled_from(kinds))
    if kind == "chunks":
        wire, payload = draw(chunked_bodies())
        return [_field(draw, b"Transfer-Encoding", b"chunked")], wire, payload
    body = b"" if kind == "none" else draw(bodies)
    if kind == "length":
        return [_field(draw, b"Content-Length", b"%d" % len(body))], body, body
    return [], body, body


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A valid chunked body -> its bytes and its payload."""
    # Payloads that look like framing are the interesting ones.
    looks_framed = st.text("0a;\r\n", max_size=30).map(str.encode)
    payload = draw(st.one_of(st.binary(max_size=60), looks_framed))
    extensions = st.one_of(
        st.just(b""),
        st.just(b""),
        st.builds(lambda name: b";" + name, tokens),
        st.builds(lambda name, value: b';%b="%b"' % (name, value), tokens, tokens),
    )
    sizes = st.sampled_from(["%x", "%X", "%03x", "%015X"])
    wire = b""
    for piece in cut(payload, draw(st.lists(st.integers(0, 60), max_size=4))):
        if piece:
            wire += (draw(sizes) % len(piece)).encode() + draw(extensions)
            wire += b"\r\n%b\r\n" % piece
    wire += draw(st.sampled_from([b"0", b"000", b"0" * 15])) + draw(extensions) + b"\r\n"
    for name, value in draw(st.lists(st.tuples(tokens, values), max_size=3)):
        wire += b"X-Trailer-%b: %b\r\n" % (name, value)
    return wire + b"\r\n", payload


@st.composite
def requests(draw: st.DrawFn) -> Message:
    """A request that has to be accepted."""
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"]))
    target = b"/" + draw(st.text("ab/.%0\\?&=;:@+~*'\"<>^`{|}", max_size=12)).encode()
    minor = draw(st.sampled_from([1, 1, 1, 0]))
    fields = [_field(draw, *own, "own") for own in draw(st.lists(_own_fields, max_size=6))]
    connections, nominated = _connection(draw, fields)
    framing, body, payload = _framing(
        draw, ["none", "length", "chunks"] if minor else ["none", "length"]
    )
    hop_by_hop = draw(st.lists(st.sampled_from(_HOP_BY_HOP_REQUEST), max_size=4))
    cookies = draw(st.lists(st.sampled_from([b"a=b", b"c=d; e=f", b"SERVERID=x"]), max_size=2))
    expectations = draw(st.sampled_from([[], [], [b"100-continue"]]))
    fields += [
        *connections,
        *framing,
        *(_field(draw, *field) for field in hop_by_hop),
        *(_field(draw, b"Cookie", cookie, "cookie") for cookie in cookies),
        *(_field(draw, b"Expect", value) for value in expectations),
        _field(draw, b"Host", draw(st.sampled_from([b"a", b"A.b:80", b"[::1]"]))),
    ]
    fields = draw(st.permutations(fields))
    line = b"%b %b HTTP/1.%d\r\n" % (method, target, minor)
    return Message(
        head=line + b"".join(field.wire for field in fields) + b"\r\n",
        body=body,
        payload=payload,
        fields=fields,
        nominated=nominated,
        method=method,
        target=target,
        version=minor,
    )


@st.composite
def responses(draw: st.DrawFn) -> Message:
    """A response that has to be accepted, to a request of `method`."""
    method = draw(st.sampled_from([b"GET", b"GET", b"HEAD", b"POST"]))
    minor = draw(st.sampled_from([1, 1, 0]))
    status = draw(st.sampled_from([200, 200, 201, 204, 206, 301, 304, 404, 500, 503]))
    reason = draw(st.sampled_from([b"OK", b"", b"Not  so\xff", b"200"]))
    own = draw(st.lists(st.one_of(_own_fields, _own_fields, _noted_fields), max_size=6))
    fields = [_field(draw, *field, "own") for field in own]
    connections, nominated = _connection(draw, fields)
    framing, body, payload = _framing(
        draw, ["close", "length", "chunks"] if minor else ["close", "length"]
    )
    hop_by_hop = draw(st.lists(st.sampled_from(_HOP_BY_HOP), max_size=3))
    fields += [*connections, *framing, *(_field(draw, *field) for field in hop_by_hop)]
    fields = draw(st.permutations(fields))
    line = b"HTTP/1.%d %d %b\r\n" % (minor, status, reason)
    has_body = method != b"HEAD" and status not in (204, 304)
    return Message(
        head=line + b"".join(field.wire for field in fields) + b"\r\n",
        body=body if has_body else b"",
        payload=payload if has_body else b"",
        fields=fields,
        nominated=nominated,
        method=method,
        status=status,
        reason=reason,
        version=minor,
    )


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """A message with one to three bytes deleted, inserted, replaced or repeated."""
    data = bytearray(draw(messages))
    odd = st.one_of(
        st.sampled_from([*b"\r\n \t\0:;,0159+-_xa/#*\x0b\x7f\x85\xa0\xff"]), st.integers(0, 255)
    )
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        way = draw(st.sampled_from(["delete", "insert", "replace", "repeat"]))
        if way == "delete":
            del data[place : place + 1]
        elif way == "insert":
            data.insert(place, draw(odd))
        elif way == "replace":
            data[place : place + 1] = bytes([draw(odd)])
        else:
            data[place:place] = data[max(0, place - draw(st.integers(1, 8))) : place]
    return bytes(data)


def first_head(data: bytes) -> bytes:
    """What the proxy hands to a parser: up to the first CRLF CRLF (added if there is none)."""
    return (data + b"\r\n\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
