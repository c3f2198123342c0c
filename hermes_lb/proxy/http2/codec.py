"""Frames, header compression and flow control of one connection, without I/O.

ngh2 (libnghttp2) does the work; nothing else imports it. Where it is not installed HTTP/2 is off.

Its limits bound what one client can cost (defaults of nghttp2 and of HAProxy's `tune.h2.fe.*`):
stream resets (CVE-2023-44487), CONTINUATION frames (CVE-2024-27316), decoded fields (HPACK bombs),
queued acknowledgements of PING and SETTINGS, and frames that are odd but legal.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

try:
    import ngh2
except ImportError:
    ngh2 = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable

    Fields = Iterable[tuple[bytes, bytes]]

# Error codes (RFC 9113 section 7).
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
ENHANCE_YOUR_CALM: Final = 0xB

#: Bytes that a client may send of one request's body before the balancer has passed them on.
STREAM_WINDOW: Final = 64 * 1024
#: Streams of one connection (nginx: `http2_max_concurrent_streams` 128; HAProxy: 100).
MOST_STREAMS: Final = 100

# Stream resets by the client: as many at once, and as many a second. An agent's client cancels a
# request now and then, a browser all of a page.
_RESETS = 200, 20
# Frames that are odd, the same: requests that the codec resets as malformed (CVE-2025-8671), empty
# DATA, priorities, frames of unknown types. An old Firefox sends a PRIORITY for each request.
_ODDITIES = 1000, 100

_ENABLE_CONNECT_PROTOCOL: Final = 0x8  # RFC 8441 section 3
_MAX_CONCURRENT_STREAMS: Final = 0x3
_INITIAL_WINDOW_SIZE: Final = 0x4
_MAX_HEADER_LIST_SIZE: Final = 0x6

IS_AVAILABLE: Final = ngh2 is not None

if ngh2 is not None:
    RequestReceived = ngh2.RequestReceived
    DataReceived = ngh2.DataReceived
    TrailersReceived = ngh2.TrailersReceived
    StreamReset = ngh2.StreamReset
    StreamClosed = ngh2.StreamClosed
    # Nothing more leaves on the stream, or on the connection.
    _GONE = ngh2.StreamUnavailableError, ngh2.ConnectionClosingError, ngh2.ConnectionStateError
else:
    RequestReceived = DataReceived = TrailersReceived = StreamReset = StreamClosed = None


class BrokenConnection(Exception):
    """The client has broken the protocol: what is left to send says so, and then it ends."""


class Codec:
    """The server's side of one connection.

    Call `events` after each `receive` and each `take`: a stream may have ended by either.
    """

    __slots__ = ("_http2", "_is_broken")

    def __init__(self, *, most_in_head: int, most_fields: int) -> None:
        most_unpacked = most_in_head + 2 * most_fields * 32
        configured = ngh2.Configuration(
            auto_window_update=False,
            stream_reset_rate_limit=_RESETS,
            glitch_rate_limit=_ODDITIES,
            # HTTP/1.1's parser counts; these bound what is unpacked until then (RFC 9113 section
            # 6.5.2: 32 bytes for each field). Crumbs of a cookie are several, as is a request line.
            max_inbound_header_list_size=most_unpacked,
            max_inbound_header_count=2 * most_fields,
        )
        self._http2 = http2 = ngh2.Connection(ngh2.Role.SERVER, configured)
        http2.initiate_connection(
            {
                _MAX_CONCURRENT_STREAMS: MOST_STREAMS,
                _INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                _MAX_HEADER_LIST_SIZE: most_unpacked,
                _ENABLE_CONNECT_PROTOCOL: 1,
            }
        )
        self._is_broken = False
        # One stream that is not read must not use up the connection's window.
        http2.set_local_window_size(MOST_STREAMS * STREAM_WINDOW)

    def receive(self, data: bytes | bytearray) -> None:
        """Raises BrokenConnection."""
        try:
            self._http2.receive_data(data)
        except ngh2.NGH2Error as error:
            self._is_broken = True
            raise BrokenConnection(str(error)) from None

    def events(self) -> list[ngh2.Event]:
        """The events since the last call, in order."""
        with suppress(ngh2.NGH2Error):
            return self._http2.events()
        return []

    def take(self) -> bytes:
        """The bytes to send now, as far as the client's windows allow it."""
        with suppress(ngh2.NGH2Error):
            return self._http2.data_to_send()
        return b""

    @property
    def is_over(self) -> bool:
        """Nothing will be read or written any more."""
        return self._is_broken or not (self._http2.want_read or self._http2.want_write)

    # A stream that the client has reset is unknown by now, and a connection may be over: nothing
    # happens.

    def respond(self, stream: int, fields: Fields, *, ends: bool) -> None:
        with suppress(*_GONE):
            self._http2.send_response(stream, fields, end_stream=ends)

    def inform(self, stream: int, fields: Fields) -> None:
        """A 1xx."""
        with suppress(*_GONE):
            self._http2.send_informational_response(stream, fields)

    def send(self, stream: int, data: bytes) -> None:
        with suppress(*_GONE):
            self._http2.send_data(stream, data)

    def end(self, stream: int) -> None:
        """The response is complete."""
        with suppress(*_GONE):
            self._http2.end_stream(stream)

    def reset(self, stream: int, code: int) -> None:
        """The queued bytes of the stream are dropped."""
        with suppress(*_GONE):
            self._http2.reset_stream(stream, code)

    def queued(self, stream: int) -> int:
        """Bytes of the response that wait for the client's window, or for `take`."""
        with suppress(*_GONE):
            return self._http2.queued_body_size(stream)
        return 0

    def credit(self, stream: int, size: int) -> None:
        """The balancer has passed on `size` bytes of a body: the client may send as many."""
        if size:
            with suppress(ngh2.NGH2Error):
                self._http2.acknowledge_received_data(size, stream)

    def announce_end(self) -> None:
        """The first GOAWAY of two: streams on their way are still served (RFC 9113 section 6.8)."""
        with suppress(ngh2.NGH2Error):
            self._http2.send_shutdown_notice()

    def go_away(self, code: int = NO_ERROR) -> None:
        """The second: later streams are refused, and the client knows that they were not served."""
        with suppress(ngh2.NGH2Error):
            self._http2.send_goaway(code)
