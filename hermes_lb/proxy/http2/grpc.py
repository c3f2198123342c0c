"""Errors of the balancer for requests of gRPC: a status of gRPC's, and not of HTTP's. Pure.

A response without messages has its status in its only head ("Trailers-Only", gRPC over HTTP/2),
which says 200. nginx and Envoy answer so, too.
"""

from __future__ import annotations

import re
from typing import Final

_UNKNOWN: Final = 2
#: By HTTP's status (gRPC, doc/http-grpc-status-mapping.md).
_STATUSES: Final = {
    400: 13,  # INTERNAL
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 12,  # UNIMPLEMENTED
    429: 14,  # UNAVAILABLE
    502: 14,
    503: 14,
    504: 14,
}

#: In a head with field names in lower case. `application/grpc-web` is another protocol.
is_grpc = re.compile(rb"\r\ncontent-type: application/grpc(?:[+; ]|\r\n)").search

# Bytes that a message has as they are; others are percent-encoded.
_ENCODED = re.compile(rb"[^\x20-\x24\x26-\x7e]")


def error_fields(status: int, text: bytes) -> list[tuple[bytes, bytes]]:
    """`text`: of the response by HTTP."""
    message = _ENCODED.sub(lambda byte: b"%%%02X" % byte[0][0], text.strip())
    return [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % _STATUSES.get(status, _UNKNOWN)),
        (b"grpc-message", message),
    ]
