"""A line of a balancer's access log, parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hermes_lb.observe.httplog import BAD_REQUEST, NO_SERVER

_LINE = re.compile(
    r"(?P<client>\S+:\d+) \[[^\]]+\] (?P<frontend>\S+) (?P<backend>[^/ ]+)/(?P<server>\S+) "
    r"(?P<TR>-?\d+)/(?P<Tw>-?\d+)/(?P<Tc>-?\d+)/(?P<Tr>-?\d+)/(?P<Ta>\d+) "
    r"(?P<status>-?\d+) (?P<size>\d+) - - (?P<termination>..)(?P<cookies>..) "
    r"(?P<connections>\d+/\d+/\d+/\d+)/(?P<elsewhere>\+?)(?P<retries>\d+) "
    r'(?P<server_queue>\d+)/(?P<backend_queue>\d+)(?: {(?P<reason>[^{}"]+)})? "(?P<request>[^"]*)"'
)


@dataclass(frozen=True, slots=True)
class Record:
    """A finished request, as the balancer logged it."""

    client: str  # address:port
    frontend: str
    backend: str | None  # None: no route matched
    server: str | None  # that served it, or was tried last; None: none
    status: int  # sent to the client; -1: none
    size: int  # bytes sent to the client, heads included
    termination: str  # two letters, docs/operations.md: who ended it, and in which phase
    cookies: str  # two letters: the affinity cookie in the request and in the response
    retries: int
    was_moved: bool  # a retry went to another server
    server_queue: int  # requests that waited before it, for its own server
    backend_queue: int  # and for any server
    reason: str  # of a refusal or failure; else ""
    request: str  # the request line; "<BADREQ>" if it was malformed
    # Open when it was logged, itself not counted if it is over: connections of all clients and of
    # the frontend, requests of the backend and of the server.
    connections: tuple[int, ...]
    times: dict[str, int] = field(compare=False)  # milliseconds by HAProxy's names: TR Tw Tc Tr Ta
    line: str = field(compare=False, repr=False)

    @classmethod
    def parse(cls, line: str) -> Record:
        """Parse a line. Raises ValueError if it is not in `httplog` format."""
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a line of httplog: {line!r}")
        parts = match.groupdict()
        server = None if parts["server"] == NO_SERVER else parts["server"]
        is_routed = server is not None or parts["backend"] != parts["frontend"]
        return cls(
            client=parts["client"],
            frontend=parts["frontend"],
            backend=parts["backend"] if is_routed else None,
            server=server,
            status=int(parts["status"]),
            size=int(parts["size"]),
            termination=parts["termination"],
            cookies=parts["cookies"],
            retries=int(parts["retries"]),
            was_moved=bool(parts["elsewhere"]),
            server_queue=int(parts["server_queue"]),
            backend_queue=int(parts["backend_queue"]),
            reason=parts["reason"] or "",
            request=parts["request"],
            connections=tuple(map(int, parts["connections"].split("/"))),
            times={name: int(parts[name]) for name in ("TR", "Tw", "Tc", "Tr", "Ta")},
            line=line,
        )

    @property
    def was_understood(self) -> bool:
        return self.request != BAD_REQUEST
