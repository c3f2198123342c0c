"""The cases: one kind of measurement a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.live.cases.first_token import FirstToken
from bench.live.cases.http2 import Http2Get, Http2ServersGet, Http2TlsGet, Http2Tokens
from bench.live.cases.processes import Processes
from bench.live.cases.requests import (
    ConnectionPerRequest,
    Handshake,
    SdkPost,
    SmallGet,
    TlsGet,
    VariedGet,
)
from bench.live.cases.spread import Spread
from bench.live.cases.tokens import Tokens300, Tokens3000, Turns300, Turns3000
from bench.live.cases.websocket import WebSocketEcho

if TYPE_CHECKING:
    from bench.live.cases.base import Case

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        SmallGet(),
        VariedGet(),
        SdkPost(),
        ConnectionPerRequest(),
        TlsGet(),
        Handshake(),
        Tokens300(),
        Tokens3000(),
        Turns300(),
        Turns3000(),
        Http2Get(),
        Http2TlsGet(),
        Http2ServersGet(),
        Http2Tokens(),
        FirstToken(),
        WebSocketEcho(),
        Processes(),
        Spread(),
    )
}
