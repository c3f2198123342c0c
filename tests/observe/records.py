"""Records of requests that have ended, for the formats of the access log."""

from __future__ import annotations

from typing import Any

from hermes_lb.http import RequestHead
from hermes_lb.observe.escaping import NOTHING_CAPTURED
from hermes_lb.observe.record import AT_ONCE, FIRST_ATTEMPT, LogRecord


def a_head(method: bytes = b"GET", target: bytes = b"/ok", **fields: bytes | int) -> RequestHead:
    head = RequestHead(method, target, 1)
    for name, value in fields.items():
        setattr(head, name, value)
    return head


def a_record(**changed: Any) -> LogRecord:
    """A GET of 200 that came at once."""
    record = LogRecord()
    fields: dict[str, Any] = {
        "client": "127.0.0.1", "port": 38554, "frontend": "fe", "backend": "be", "server": "s1",
        "connections": 1, "frontend_connections": 1, "backend_load": 0, "server_load": 0,
        "began": 0.0, "to_server": AT_ONCE, "response": 0.0, "total": 0.0,
        "status": 200, "bytes_received": 0, "bytes_sent": 51, "termination": "--NI", "reason": "",
        "attempts": FIRST_ATTEMPT, "request": a_head(), "captured": NOTHING_CAPTURED, "tls": "",
    }  # fmt: skip
    for name, value in {**fields, **changed}.items():
        setattr(record, name, value)
    return record
