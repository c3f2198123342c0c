"""Is what the origin got of a stream one request, and the one that HTTP/1.1 would have sent?

- All referees read what the origin got alike, as one request at most, and the next stream's behind.
- What RFC 9113 section 8 calls malformed reaches no origin as a whole request.
- What is well-formed is the request that it means, and the same that its translation to HTTP/1.1
  becomes: the same fields arrive, or both are refused.
- The client gets the answer to its request, or a refusal, or the stream's reset; the next stream
  and another client get their own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import h2.events

from tests.differential.request_judge import OWN, check_witness, forwarded_requests
from tests.differential.stream_grammar import NEXT_STREAM, STREAM
from tests.differential.verdict import Disagreement, Verdict, difference
from tests.support.http2_frames import ClientFrames

if TYPE_CHECKING:
    from tests.differential.arena import RequestOutcome
    from tests.differential.readings import Request
    from tests.differential.stream_grammar import Fields, StreamCase

_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_METHOD = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_OF_ONE_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"
}  # fmt: skip

# Of a WebSocket, whose key is ours by HTTP/2.
_BY_EACH = (OWN | {b"sec-websocket-key"}) - {b"host", b"x-real-ip"}
_MORE = "more DATA than its length"


def malformed(case: StreamCase) -> str:
    """Why no origin may get this request; empty: it is well-formed. After RFC 9113 section 8, not
    after the code."""
    pseudo: dict[bytes, bytes] = {}
    plain: Fields = []
    for name, value in case.fields:
        if not name.startswith(b":"):
            plain.append((name, value))
        elif plain or name in pseudo or name not in _PSEUDO:
            return "a pseudo-header field that is late, double or unknown"
        else:
            pseudo[name] = value
    if any(not pseudo.get(name) for name in _PSEUDO[:3]):
        return "a missing pseudo-header field"
    path = pseudo[b":path"]
    is_path = _PATH.fullmatch(path) or (path == b"*" and pseudo[b":method"] == b"OPTIONS")
    if not is_path or not _METHOD.fullmatch(pseudo[b":method"]):
        return "an odd path or method"
    if not _SCHEME.fullmatch(pseudo[b":scheme"]) or pseudo[b":method"] == b"CONNECT":
        return "an odd scheme, or CONNECT"
    authority = pseudo.get(b":authority", b"")
    if re.search(rb"[\x00-\x20\x7f-\xff@]", authority):
        return "an odd authority"
    hosts = {value.lower() for name, value in plain if name == b"host"}
    if len(hosts | ({authority.lower()} if authority else set())) > 1:
        return "Host beside another authority"
    if problem := _odd_field(plain):
        return problem
    lengths = {value for name, value in plain if name == b"content-length"}
    for length in lengths:
        if len(lengths) > 1 or not re.fullmatch(rb"[0-9]+", length):
            return "an odd length"
        if int(length) != len(case.body or b""):
            return _MORE if int(length) < len(case.body or b"") else "less DATA than its length"
    return "" if lengths else _odd_field(case.trailers or [])


def _odd_field(fields: Fields) -> str:
    for name, value in fields:
        if not _NAME.fullmatch(name):
            return "an odd name"
        if re.search(rb"[\x00\r\n]", value) or value != value.strip(b" \t"):
            return "an odd value"
        if name in _OF_ONE_HOP or (name == b"te" and value.lower() != b"trailers"):
            return "a field of one hop"
    return ""


def translation(case: StreamCase) -> bytes:
    """A well-formed request as HTTP/1.1 has it, for one Host and with its cookies joined."""
    said = dict(reversed(case.fields))
    authority = said.get(b":authority") or said.get(b"host")
    lines = [b"%b %b HTTP/1.1" % (said[b":method"], said[b":path"])]
    if authority is not None:
        lines.append(b"Host: " + authority)
    dropped = (b"host", b"te", b"cookie", b"content-length")
    plain = [each for each in case.fields if each[0][:1] != b":"]
    lines += [b"%b: %b" % each for each in plain if each[0] not in dropped]
    if cookies := [value for name, value in plain if name == b"cookie"]:
        lines.append(b"Cookie: " + b"; ".join(cookies))
    body = case.body or b""
    lengths = [each for each in plain if each[0] == b"content-length"]
    lines += [b"%b: %b" % each for each in lengths]
    if case.body is not None and not lengths:
        lines.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    return b"\r\n".join([*lines, b"", b""]) + body


class _Answer(NamedTuple):
    status: int = 0
    body: bytes = b""
    has_ended: bool = False
    reset: int | None = None


def _answers(received: bytes) -> dict[int, _Answer]:
    """What the client got, by stream; h2 is the reader."""
    frames = ClientFrames(checks=False)
    http2 = frames.http2
    for number in (STREAM, NEXT_STREAM):
        assert http2.get_next_available_stream_id() == number
        http2.send_headers(number, [(b":method", b"GET")], end_stream=False)
    answers = {STREAM: _Answer(), NEXT_STREAM: _Answer()}
    for event in frames.receive(received):
        number = getattr(event, "stream_id", None)
        if number not in answers:
            continue
        answer = answers[number]
        match event:
            case h2.events.ResponseReceived():
                answer = answer._replace(status=int(dict(event.headers)[b":status"]))
            case h2.events.DataReceived():
                answer = answer._replace(body=answer.body + event.data)
            case h2.events.StreamEnded():
                answer = answer._replace(has_ended=True)
            case h2.events.StreamReset():
                answer = answer._replace(reset=int(event.error_code))
        answers[number] = answer
    return answers


def judge_stream(case: StreamCase, outcome: RequestOutcome, twin: RequestOutcome | None) -> Verdict:
    """`twin`: of the translation, if it is well-formed. Raises Disagreement."""
    if outcome.trouble:
        raise Disagreement("trouble", *outcome.trouble)
    got = forwarded_requests(outcome)
    check_witness(outcome, got)
    answers = _answers(outcome.answers)
    if not outcome.is_closed:
        _check_next(outcome, got, answers[NEXT_STREAM])
    if len(got) > 1:
        raise Disagreement("several requests of one stream", *outcome.streams)
    request = got[0] if got else None
    problem = malformed(case)
    if problem == _MORE and request is not None:
        # It was whole before the rest came, which must not follow it.
        if request.body != (case.body or b"")[: int(dict(case.fields)[b"content-length"])]:
            raise Disagreement(f"{problem} reaches an origin", case.fields, request)
        return Verdict(["reset"], refusal=f"reset {problem}")
    if problem and request is not None:
        raise Disagreement(f"{problem} reaches an origin", case.fields, request)
    answer = answers[STREAM]
    # Its body was whole before they came.
    if _odd_field(case.trailers or []) or (answer.reset is not None and _has_framing_trailer(case)):
        return Verdict(["reset"], refusal="reset for its trailers")
    _check_answer(answer, request, outcome)
    if twin is not None:
        _compare(case, request, answer, twin)
    origin = [] if request is None else [b" ".join((request.method, request.target, request.body))]
    if request is not None:
        return Verdict([str(answer.status)], [origin[0].rstrip(b" ")])
    how = str(answer.status) if answer.status else "closed" if outcome.is_closed else "reset"
    return Verdict([how], refusal=f"{how} {problem}", strict="" if problem else how)


def _check_next(outcome: RequestOutcome, got: list[Request | None], answer: _Answer) -> None:
    last = got.pop() if got else None
    if last is None or (last.method, last.target, last.body) != (b"GET", b"/next", b""):
        raise Disagreement("the next stream's request does not come", *outcome.streams)
    expected = b"answer %d" % (len(outcome.methods) - 2)
    if (answer.status, answer.body, answer.has_ended) != (200, expected, True):
        raise Disagreement("the next stream gets something else", answer)


def _check_answer(answer: _Answer, request: Request | None, outcome: RequestOutcome) -> None:
    if request is not None:
        body = b"" if request.method == b"HEAD" else b"answer 0"
        if (answer.status, answer.body, answer.has_ended) != (200, body, True):
            raise Disagreement("the wrong answer", answer)
    elif 100 <= answer.status < 400:
        raise Disagreement("an answer to what no origin has got", answer)
    elif not (answer.status or answer.reset is not None or outcome.is_closed):
        raise Disagreement("neither an answer nor a reset", outcome.answers)


def _compare(
    case: StreamCase, request: Request | None, answer: _Answer, twin: RequestOutcome
) -> None:
    """With what the same request by HTTP/1.1 becomes."""
    if twin.trouble:
        raise Disagreement("trouble with the translation", *twin.trouble)
    meant = forwarded_requests(twin)
    check_witness(twin, meant)
    if len(meant) > 1:
        raise Disagreement("the translation is several requests", twin.sent)
    if not meant or meant[0] is None:
        if request is not None:
            raise Disagreement("HTTP/1.1 refuses it, and HTTP/2 does not", twin.sent, request)
        is_same = b" %d " % answer.status == twin.answers[8:13]
        # With two faults, either may be named.
        if answer.status and not is_same and not _may_be_refused(case):
            raise Disagreement("refused in two ways", twin.answers, answer)
        return
    if request is None:
        if _may_be_refused(case):
            return
        raise Disagreement("HTTP/2 refuses it, and HTTP/1.1 does not", twin.sent, answer)
    expected = meant[0]
    if request._replace(fields=(), end=None) != expected._replace(fields=(), end=None):
        raise Disagreement("another request than by HTTP/1.1", request, expected)
    if problem := difference(request.fields, expected.fields, _BY_EACH):
        raise Disagreement("other fields than by HTTP/1.1", problem, request)


def _has_framing_trailer(case: StreamCase) -> bool:
    """Whether a trailer would frame or route the request."""
    return any(name in {b"content-length", b"host"} for name, _ in case.trailers or [])


def _may_be_refused(case: StreamCase) -> bool:
    """HTTP/2 is stricter: two Hosts of one meaning, lengths that are said twice, an empty name,
    trailers that would frame or route."""
    said = [name for name, _ in case.fields]
    if _has_framing_trailer(case):
        return True
    twice = any(said.count(name) > 1 for name in (b"host", b"content-length"))
    values = dict(case.fields)
    authority = values.get(b":authority")
    return twice or authority == b"" or (b"host" in said and values[b"host"] != authority)
