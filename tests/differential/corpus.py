r"""Cases in files: what is sent, and what must come of it.

    what: TE.CL: an origin that goes by the length finds a second request in the chunk.
    row: 1
    client: 400
    ---
    POST / HTTP/1.1\r\n
    Host: a\r\n

Above the line are keys, below it the bytes. The file's own line ends stand for nothing: those
that are sent are written as `\r\n`. There are also `\t`, `\0`, `\\`, `\xff`, and `\*300{a}` for
300 times an "a" (anything without a brace). A blank at an end of a line is written as `\x20`.

- `what` it is about, for a person, and the `row` of the hostile-input table that it belongs to;
- `client`: the statuses of the final answers that the client gets, in order, `cut` for one that is
  visibly cut, or `nothing`; behind a response, a client whose connection goes on sends another
  request, which another answer of the origin must reach, with 200;
- `origin`: a line for each whole request that the origin gets: its method, its target, its body;
- `early`: the status with which the origin answers a head at once, before its body;
- `refuses`: the status with which it answers what expects a 100, before its body;
- `request`: the bytes below are an origin's answer to this request, of which only the first line
  and the fields are given, separated by `|`; else they are what a client sends;
- `body`: of the response, as the client gets it;
- `ending`: `fin` or `reset`, for an origin that still owes something behind its bytes.

Without `client`, as in a file that the fuzzer wrote, the referees have to agree, and that is all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.differential.response_referees import FIN

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).with_name("corpus")

_LINE = "---\n"
_KEYS = {"what", "row", "client", "origin", "early", "refuses", "request", "body", "ending"}


@dataclass
class Case:
    """One file of the corpus."""

    name: str
    what: str
    wire: bytes
    row: int | None = None
    client: list[str] | None = None  # None: whatever comes of it, the referees agree
    origin: list[bytes] = field(default_factory=list)
    early: int = 0
    refuses: int = 0
    request: bytes = b""
    body: bytes | None = None
    ending: str = FIN


def cases() -> list[Case]:
    """All of the folder."""
    return [read(path.stem, path.read_text("ascii")) for path in sorted(FOLDER.glob("*.http"))]


def read(name: str, text: str) -> Case:
    """Raises ValueError if the text is not as described above."""
    above, line, below = text.partition(_LINE)
    keys = [key_line.partition(": ") for key_line in above.splitlines()]
    values = {key: value for key, _, value in keys}
    if not line or values.keys() - _KEYS or not values.get("what"):
        raise ValueError(f"{name}: not a case: {sorted(values.keys() - _KEYS)}")
    case = Case(name, values["what"], unescape(below))
    case.origin = [unescape(value) for key, _, value in keys if key == "origin"]
    case.early = int(values.get("early", 0))
    case.refuses = int(values.get("refuses", 0))
    case.ending = values.get("ending", FIN)
    if "row" in values:
        case.row = int(values["row"])
    if "client" in values:
        case.client = [] if values["client"] == "nothing" else values["client"].split()
    if "body" in values:
        case.body = unescape(values["body"])
    if "request" in values:
        case.request = as_request(unescape(values["request"]))
    return case


def as_request(given: bytes) -> bytes:
    """A request of which the first line and the fields are given; its body is made up."""
    head = given.replace(b"|", b"\r\n") + b"\r\n\r\n"
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    return head + b"x" * (int(length[1]) if length else 0)


def write(case: Case) -> str:
    """The text of a case that the fuzzer has found."""
    lines = [f"what: {case.what}"]
    if case.early:
        lines.append(f"early: {case.early}")
    if case.refuses:
        lines.append(f"refuses: {case.refuses}")
    if case.request:
        head = case.request.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"|")
        lines += [f"request: {escape(head)}", f"ending: {case.ending}"]
    below = "".join(f"{escape(part)}\n" for part in _lines(case.wire))
    return "\n".join(lines) + "\n" + _LINE + below


def _lines(data: bytes) -> Iterator[bytes]:
    for line in data.split(b"\n")[:-1]:
        yield line + b"\n"
    if rest := data.rpartition(b"\n")[2]:
        yield rest


_NAMED = {b"\r": "\\r", b"\n": "\\n", b"\t": "\\t", b"\0": "\\0", b"\\": "\\\\"}
_BY_NAME = {name[1:]: byte for byte, name in _NAMED.items()}


def escape(data: bytes) -> str:
    """Bytes as one line of a file."""
    text = "".join(
        _NAMED.get(byte) or (byte.decode("ascii") if b" " <= byte <= b"~" else f"\\x{byte[0]:02x}")
        for byte in (data[i : i + 1] for i in range(len(data)))
    )
    return re.sub("^ | $", r"\\x20", text)


def unescape(text: str) -> bytes:
    """What the lines of a file stand for."""
    return b"".join(_parts(text.replace("\n", "")))


_PART = re.compile(
    r"(?P<plain>[^\\]+)|\\(?:x(?P<hex>[0-9a-f]{2})|\*(?P<times>\d+)\{(?P<what>[^}]*)\}|(?P<name>.))"
)


def _parts(text: str) -> Iterator[bytes]:
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None or (part["name"] and part["name"] not in _BY_NAME):
            raise ValueError(f"not an escape: {text[position : position + 20]!r}")
        position = part.end()
        if part["plain"]:
            yield part["plain"].encode("ascii")
        elif part["hex"]:
            yield bytes.fromhex(part["hex"])
        elif part["times"]:
            yield unescape(part["what"]) * int(part["times"])
        else:
            yield _BY_NAME[part["name"]]
