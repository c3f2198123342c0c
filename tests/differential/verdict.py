"""What a judge says of a case: a `Verdict`, or it raises a `Disagreement`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.differential.readings import Fields


class Disagreement(AssertionError):
    """The bytes can be read in two ways, or mean what was not sent. `kind` is what goes wrong."""

    def __init__(self, kind: str, *details: object) -> None:
        super().__init__("\n  ".join([kind, *(f"{detail}" for detail in details)]))
        self.kind = kind


class Verdict(NamedTuple):
    """All is well.

    `client`: the statuses of the final answers that it got, in order, "cut" for one that is
    visibly cut; `origin`: the requests that it got, each as method, target and body.
    """

    client: list[str]
    origin: list[bytes] = []  # noqa: RUF012 - never changed
    body: bytes = b""  # of the response
    refusal: str = ""  # if there was one: its status, and the reason that the client received
    strict: str = ""  # the same, if all referees take what was refused for valid, and alike


def disagree(kind: str, readings: Mapping[str, object], *about: object) -> NoReturn:
    """All that the referees say, side by side."""
    said = [f"{name}: {reading}" for name, reading in readings.items()]
    raise Disagreement(kind, *about, *said)


def difference(got: Fields, meant: Fields, may_go: set[bytes]) -> str:
    """How the fields that arrived differ from those that were meant to; "" if they do not.

    `may_go`: names that end at the balancer, or that it sets itself.
    """

    def kept(fields: Fields) -> Counter[tuple[bytes, bytes]]:
        return Counter((n, v) for n, v in fields if not _ends_here(n) and n not in may_go)

    got_count, meant_count = kept(got), kept(meant)
    added, lost = got_count - meant_count, meant_count - got_count
    return " and ".join(
        f"{what} {sorted(fields)}" for what, fields in (("adds", added), ("loses", lost)) if fields
    )


_HOP_BY_HOP = {
    b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings",
    b"content-length", b"transfer-encoding",
}  # fmt: skip


def _ends_here(name: bytes) -> bool:
    """Names with an underscore may be dropped: CGI can't tell them from those with a hyphen."""
    return name in _HOP_BY_HOP or b"_" in name or name == b"proxy" or name.startswith(b"proxy-")
