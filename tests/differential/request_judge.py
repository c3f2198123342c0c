"""Is what the origin got what the client meant, to every reader?

- All referees read what the origin got alike: the same requests, which end at the same places.
- Each of them is one that the client's bytes can mean, and the same to every careful reader.
- The client gets one answer for each, in order, and behind them at most one refusal.
- Another client behind it gets its own answer.
- No connection to the origin is used again behind an answer to a part of a request, or to one whose
  body it has not asked for.
- No name reaches the origin that a CGI server would take for one that frames.
- A request that all careful readers understand is forwarded or refused, never lost.

The balancer itself answers OPTIONS and TRACE whose hops are used up (RFC 9110 section 7.6.2).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import h11

from tests.differential.readings import INCOMPLETE, Requests, without_extensions
from tests.differential.request_referees import CAREFUL, REFEREES
from tests.differential.verdict import Disagreement, Verdict, difference, disagree
from tests.support.referees import Incomplete, h11_response

if TYPE_CHECKING:
    from tests.differential.arena import RequestOutcome
    from tests.differential.readings import Request

# What the balancer says in its own words, or counts down.
OWN = {
    b"host", b"via", b"x-request-id", b"x-real-ip", b"forwarded", b"expect", b"max-forwards",
    b"traceparent", b"tracestate",
}  # fmt: skip
_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?]*)(?P<rest>.*)", re.IGNORECASE)
_TWINS = {b"content_length", b"transfer_encoding"}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def judge_requests(outcome: RequestOutcome) -> Verdict:
    """Raises Disagreement."""
    if outcome.trouble:
        raise Disagreement("trouble", *outcome.trouble)
    for behind, stream in outcome.reused.items():
        raise Disagreement(f"a connection is used again behind {behind}", stream)
    meanings = {name: _for_origin(read(outcome.sent)) for name, read in CAREFUL.items()}
    plain = without_extensions(outcome.sent)
    plain_meanings = {name: _for_origin(read(plain)) for name, read in CAREFUL.items()}
    forwarded = forwarded_requests(outcome)
    check_witness(outcome, forwarded)
    for number, got in enumerate(forwarded):
        if got is not None:
            is_known = any(number < len(reading.messages) for reading in meanings.values())
            _compare(number, got, meanings if is_known else plain_meanings)
    client, refusal = _answers(outcome)
    if not outcome.is_early:
        if None in forwarded[:-1]:
            raise Disagreement("a request behind one that is cut", *outcome.streams)
        is_incomplete = _is_incomplete(meanings) or _is_incomplete(plain_meanings)
        if None in forwarded and not (refusal or is_incomplete):
            disagree("a request is cut, and nobody is told", meanings, *outcome.streams)
    whole = [got for got in forwarded if got is not None]
    is_clear = _is_clear(meanings)
    if is_clear and not refusal and not outcome.is_early:
        _check_none_is_lost(len(whole), outcome, meanings)
    return Verdict(
        client,
        [b" ".join((m.method, m.target, m.body)).rstrip(b" ") for m in whole],
        refusal=refusal,
        strict=refusal if is_clear else "",
    )


def check_witness(outcome: RequestOutcome, forwarded: list[Request | None]) -> None:
    """The last request is that of the other client, and so is its answer."""
    last = forwarded.pop() if forwarded else None
    if last is None or last.target != b"/marker":
        raise Disagreement("the next client's request does not come", *outcome.streams)
    number = len(outcome.methods) - 1
    status, body, rest = _next_answer(outcome.witness, b"GET")
    if (status, body) != _expected(outcome, number, b"GET") or rest:
        raise Disagreement("the next client gets something else", outcome.witness)


def _is_ours(request: Request) -> bool:
    hops = request.all(b"max-forwards")
    return request.method in (b"OPTIONS", b"TRACE") and [set(hop) for hop in hops] == [{ord("0")}]


def _for_origin(reading: Requests) -> Requests:
    """Without what the balancer answers itself."""
    return Requests([m for m in reading.messages if not _is_ours(m)], reading.problem)


def forwarded_requests(outcome: RequestOutcome) -> list[Request | None]:
    """The requests that the origin got, in the order of their heads; None for one that is cut."""
    by_stream: list[list[Request | None]] = []
    for stream in outcome.streams:
        reading = _agreed(stream)
        by_stream.append([*reading.messages, *([None] if reading.problem else [])])
    if sorted(outcome.order) != [n for n, found in enumerate(by_stream) for _ in found]:
        raise Disagreement("more than was answered reaches the origin", *outcome.streams)
    return [by_stream[number].pop(0) for number in outcome.order]


def _agreed(stream: bytes) -> Requests:
    """The one reading that all referees share."""
    readings = {name: read(stream) for name, read in REFEREES.items()}
    h11_reading = readings["h11"]
    for name, reading in readings.items():
        if name == "aiohttp" and _is_its_own_rule(reading.problem):
            continue
        if reading.problem not in ("", INCOMPLETE):
            disagree(f"forwarded: {name} refuses it", readings, stream)
        if reading.problem != h11_reading.problem:
            disagree(f"forwarded: h11 and {name} differ in the end", readings, stream)
        if len(reading.messages) != len(h11_reading.messages):
            disagree(f"forwarded: h11 and {name} differ in the number", readings, stream)
        for mine, other in zip(h11_reading.messages, reading.messages, strict=True):
            if mine != other._replace(end=mine.end if other.end is None else other.end):
                disagree(f"forwarded: h11 and {name} differ in a request", readings, stream)
    names = {name for message in h11_reading.messages for name, _ in message.fields}
    if twins := names & _TWINS:
        raise Disagreement("forwarded: a name that CGI reads as another", twins, stream)
    return h11_reading


def _is_its_own_rule(problem: str) -> bool:
    """aiohttp refuses some fields that come twice, which RFC 9110 leaves to the application."""
    return re.search(r"Duplicate '[\w-]+' header found", problem) is not None


def _compare(number: int, got: Request, meanings: dict[str, Requests]) -> None:
    """Request `number` of the origin is that of the client, to every careful reader."""
    nobody = True
    for name, reading in meanings.items():
        if number < len(reading.messages):
            nobody = False
            if problem := _differ(got, reading.messages[number]):
                disagree(f"{name} reads another {problem.split(':')[0]}", meanings, problem, got)
    if nobody:
        disagree("nobody reads a request where we forward one", meanings, got)


def _differ(got: Request, meant: Request) -> str:
    """In what, if it is in anything that should have passed."""
    target, host = meant.target, meant.all(b"host")
    if match := _ABSOLUTE.fullmatch(target):  # RFC 9112 section 3.2.2
        host = [match["authority"]]
        target = match["rest"] if match["rest"].startswith(b"/") else b"/" + match["rest"]
        if meant.method == b"OPTIONS" and not match["rest"]:
            target = b"*"  # section 3.2.4
    if got.method != meant.method:
        return f"method: {meant.method!r}"
    if got.target != target:
        return f"target: {target!r}"
    if got.body != meant.body:
        return f"body: {meant.body!r}"
    if any(host) and got.all(b"host") != host:
        return f"host: {host!r}"
    if fields := difference(got.fields, meant.fields, _may_go(got, meant)):
        return f"field: we have what {fields}"
    return ""


def _may_go(got: Request, meant: Request) -> set[bytes]:
    names = {name for name, _ in (*got.fields, *meant.fields)}
    of_proxies = {name for name in names if name.startswith((b"x-forwarded-", b"sec-websocket-"))}
    secret = {b"authorization", b"cookie"} if meant.method == b"TRACE" else set()
    return OWN | meant.options | of_proxies | secret


def _answers(outcome: RequestOutcome) -> tuple[list[str], str]:
    """The statuses that the client got: one for each request, and then at most a refusal.

    Of that one also the text: "400 Bad Request: why", or "".
    """
    statuses: list[str] = []
    rest = _skip_ours(outcome.answers, statuses)
    methods = outcome.methods[:-1]
    for number, method in enumerate(methods):
        before = rest
        is_last = number == len(methods) - 1
        if outcome.is_early and is_last and outcome.is_closed:
            _, cut_body = _expected(outcome, number, b"GET")
            if rest.endswith(b"\r\n\r\n" + cut_body[:-1]):
                # The upload broke its framing within the answer, whose last byte was not due yet.
                return [*statuses, "cut"], ""
        status, body, rest = _next_answer(rest, method)
        if (status, body) != _expected(outcome, number, method):
            if outcome.is_early and is_last:
                rest = before  # the early answer came later than our refusal of the body
                break
            raise Disagreement("the wrong answer", f"{number}: {status} {body!r}", outcome.answers)
        statuses.append(str(status))
        rest = _skip_ours(rest, statuses)
    if rest in (b"", _CONTINUE):  # which may be all that a request gets whose body does not come
        return statuses, ""
    # A HEAD is refused without a body, where it was understood that far.
    is_bare = rest.endswith(b"\r\n\r\n") and b"HEAD " in outcome.sent
    status, body, rest = _next_answer(rest, b"HEAD" if is_bare else b"GET")
    if rest or status < 400 or not outcome.is_closed:
        raise Disagreement("behind the answers comes no refusal", outcome.answers)
    return [*statuses, str(status)], body.decode().strip() or f"{status} to a HEAD"


def _expected(outcome: RequestOutcome, number: int, method: bytes) -> tuple[int, bytes]:
    return outcome.statuses[number], b"" if method == b"HEAD" else b"answer %d" % number


def _skip_ours(rest: bytes, statuses: list[str]) -> bytes:
    """Behind what the balancer has answered itself; an origin's answers begin differently."""
    while rest.startswith(b"HTTP/1.1 200 OK\r\nAllow: "):
        status, _, rest = _next_answer(rest, b"OPTIONS")
        statuses.append(str(status))
    return rest


def _next_answer(data: bytes, method: bytes) -> tuple[int, bytes, bytes]:
    """The next final answer -> its status, its body, and what comes behind it."""
    rest = data
    while True:
        try:
            head, body, rest = h11_response(method, rest, closed=False)
        except (Incomplete, h11.RemoteProtocolError) as problem:
            kind = "an answer is malformed" if rest else "an answer is missing"
            raise Disagreement(kind, repr(problem), data) from None
        if head.status_code >= 200:
            return head.status_code, body, rest


def _is_incomplete(meanings: dict[str, Requests]) -> bool:
    return any(reading.problem == INCOMPLETE for reading in meanings.values())


def _is_clear(meanings: dict[str, Requests]) -> bool:
    """True if all careful readers understand all of it, and alike."""
    first, *others = meanings.values()
    return not first.problem and all(
        not other.problem
        and len(other.messages) == len(first.messages)
        and not any(map(_differ, other.messages, first.messages))
        for other in others
    )


def _check_none_is_lost(
    forwarded: int, outcome: RequestOutcome, meanings: dict[str, Requests]
) -> None:
    """Up to the first that closes; one of ours with a body does so too, since it is not read."""
    expected = 0
    for message in CAREFUL["h11"](outcome.sent).messages:
        expected += not _is_ours(message)
        has_body = message.body or message.all(b"transfer-encoding")
        if message.closes or (_is_ours(message) and has_body):
            break
    if forwarded != expected:
        disagree("a request is lost", meanings, f"{forwarded} of {expected} were forwarded")
