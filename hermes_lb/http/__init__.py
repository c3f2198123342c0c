"""HTTP/1.1 without I/O: heads, body framing, forwarding rules, limits."""

from hermes_lb.http.body import Body, ChunkedBody, LengthBody, UntilCloseBody, make_body
from hermes_lb.http.forward import (
    build_request,
    build_response,
    date_field,
    identity_fields,
    trusted_identity_fields,
)
from hermes_lb.http.request import CHUNKED, RequestHead, RequestParser
from hermes_lb.http.response import UNTIL_CLOSE, ResponseHead, ResponseParser

__all__ = [
    "CHUNKED",
    "UNTIL_CLOSE",
    "Body",
    "ChunkedBody",
    "LengthBody",
    "RequestHead",
    "RequestParser",
    "ResponseHead",
    "ResponseParser",
    "UntilCloseBody",
    "build_request",
    "build_response",
    "date_field",
    "identity_fields",
    "make_body",
    "trusted_identity_fields",
]
