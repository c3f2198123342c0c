"""Is what the client got what the origin said, to every reader?

- All referees read what the client got alike: the same response, which ends at the same place; or
  all of them see that it is cut.
- A whole response is one that the origin's bytes mean, and the same to every reader of these.
- Or it is our own 502.
- It has a Date: the origin's, or ours if the origin gave none.
- What comes behind it is the answer to the client's next request, and nothing else; and another
  client behind this one gets its own answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.differential.peers import MARKER_RESPONSE
from tests.differential.readings import INCOMPLETE, Answer, without_extensions
from tests.differential.response_referees import REFEREES
from tests.differential.verdict import Disagreement, Verdict, difference, disagree

if TYPE_CHECKING:
    from tests.differential.arena import ResponseOutcome
    from tests.differential.readings import Response

_STRICT = ("h11", "llhttp")
_STRAY_LINE = re.compile(
    rb"\A((?:HTTP/1\.[01] 1[0-9]{2}[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n)*)\r\n(?=HTTP/1\.)"
)
_LAST_CHUNK = re.compile(rb"(\n0+(?:;[^\r\n]*)?\r\n)")
_DATE = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT").fullmatch
_FRAMING = re.compile(rb"(?:content-length|transfer-encoding)(?=:)", re.IGNORECASE)


def judge_response(outcome: ResponseOutcome) -> Verdict:
    """Raises Disagreement."""
    if outcome.trouble:
        raise Disagreement("trouble", *outcome.trouble)
    method = outcome.request.partition(b" ")[0]
    got = _agreed(outcome, method)
    if outcome.witness != MARKER_RESPONSE:
        raise Disagreement("the next client gets something else", outcome.witness)
    meanings = {name: read(outcome.sent, method, outcome.ending) for name, read in REFEREES.items()}
    marker = ["200"] if outcome.is_kept else []
    if got is None:
        return _refused("cut", [], meanings)
    if not _dates(got):  # RFC 9110 section 6.6.1
        disagree("a response without a Date", meanings, got)
    if got.status == 502 and (method == b"HEAD" or got.body.startswith(b"502 Bad Gateway: ")):
        return _refused("502", marker, meanings)
    if not _is_known_to_a_strict_reader(outcome, method):
        disagree("a whole response, of which no strict reader knows", meanings, got)
    _compare(got, meanings, is_http11=b" HTTP/1.1\r\n" in outcome.request)
    return Verdict([str(got.status), *marker], body=got.body)


def _refused(how: str, marker: list[str], meanings: dict[str, Answer]) -> Verdict:
    strict = how if _is_clear(meanings) else ""
    return Verdict([how, *marker], refusal=how, strict=strict)


def _agreed(outcome: ResponseOutcome, method: bytes) -> Response | None:
    """The response to the request that all referees find; None if all of them see that it is cut.

    Behind it there is nothing, or the answer to the marker.
    """
    received = outcome.received
    whole = received.removesuffix(MARKER_RESPONSE) if outcome.is_kept else received
    readings = {name: read(whole, method, outcome.closed) for name, read in REFEREES.items()}
    if outcome.is_kept and whole == received:
        disagree("the next request gets no answer", readings, received)
    first = readings["h11"]
    for name, answer in readings.items():
        if _with_end(answer, first) != first:
            disagree(f"received: h11 and {name} differ", readings, received)
    if first.response is None:
        if first.problem != INCOMPLETE or outcome.is_kept:
            disagree("received: malformed", readings, received)
    elif first.response.end != len(whole):
        disagree("received: bytes behind the response", readings, received)
    return first.response


def _with_end(answer: Answer, first: Answer) -> Answer:
    """aiohttp does not tell where a response ends if something is behind it."""
    if answer.response is None or first.response is None or answer.response.end is not None:
        return answer
    return Answer(answer.response._replace(end=first.response.end), answer.problem)


def _is_known_to_a_strict_reader(outcome: ResponseOutcome, method: bytes) -> bool:
    # They refuse trailers that would frame the message; the balancer drops all trailers.
    *before, trailers = _LAST_CHUNK.split(outcome.sent)
    if before:
        trailers = _FRAMING.sub(lambda name: b"x" * len(name[0]), trailers)
    without = b"".join([*before, trailers])
    meant = [outcome.sent, without]
    for forgive in (without_extensions, _without_stray_line):
        meant += [forgive(sent) for sent in meant]
    return any(
        REFEREES[name](sent, method, outcome.ending).response
        for sent in dict.fromkeys(meant)
        for name in _STRICT
    )


def _without_stray_line(sent: bytes) -> bytes:
    """Strict readers know of no empty line before a status line; the balancer forgives one."""
    return _STRAY_LINE.sub(rb"\1", sent)


def _compare(got: Response, meanings: dict[str, Answer], *, is_http11: bool) -> None:
    """It is the origin's response, for every parser that understands that."""
    dates = _dates(got)
    for name, answer in meanings.items():
        meant = answer.response
        if meant is None:
            continue
        theirs = got
        if b"date" in meant.options or not _dates(meant):  # that of the origin does not go on
            if len(dates) != 1 or not _DATE(dates[0]):
                disagree("a Date of ours that is none", meanings, got)
            theirs = got._replace(fields=tuple(f for f in got.fields if f[0] != b"date"))
        if problem := _differ(theirs, meant, is_http11):
            disagree(f"{name} reads another {problem.split(':')[0]}", meanings, problem, got)


def _dates(response: Response) -> list[bytes]:
    return [value for name, value in response.fields if name == b"date"]


def _differ(got: Response, meant: Response, is_http11: bool) -> str:
    """In what, if it is in anything that should have passed."""
    if got.status != meant.status:
        return f"status: {meant.status}"
    if got.body != meant.body:
        return f"body: {meant.body!r}"
    if got.informational != (meant.informational if is_http11 else ()):
        return f"informational response: {meant.informational}"
    if fields := difference(got.fields, meant.fields, meant.options):
        return f"field: we have what {fields}"
    return ""


def _is_clear(meanings: dict[str, Answer]) -> bool:
    """True if all parsers read one whole response there, and the same one."""
    first = meanings["h11"].response
    return first is not None and all(
        answer.response is not None and not _differ(answer.response, first, True)
        for answer in meanings.values()
    )
