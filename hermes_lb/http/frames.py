"""Frames, header compression and flow control of one connection by HTTP/2 (RFC 9113). No I/O.

ngh2 (libnghttp2) does the work; nothing else imports it. Where it is not installed HTTP/2 is off.

Its limits bound what one peer can cost (defaults of nghttp2): CONTINUATION frames (CVE-2024-27316),
decoded fields (HPACK bombs), queued acknowledgements of PING and SETTINGS, and frames that are odd
but legal.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

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

# Settings (section 6.5.2; RFC 8441 section 3).
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8

#: Bytes that a peer may send of one body before the balancer has passed them on.
STREAM_WINDOW: Final = 64 * 1024
#: Streams of one connection (nginx: `http2_max_concurrent_streams` 128; HAProxy: 100, both sides).
MOST_STREAMS: Final = 100

IS_AVAILABLE: Final = ngh2 is not None
FramesError: type[Exception] = Exception if ngh2 is None else ngh2.NGH2Error

if ngh2 is not None:
    RequestReceived = ngh2.RequestReceived
    ResponseReceived = ngh2.ResponseReceived
    InformationalResponseReceived = ngh2.InformationalResponseReceived
    DataReceived = ngh2.DataReceived
    TrailersReceived = ngh2.TrailersReceived
    StreamReset = ngh2.StreamReset
    StreamClosed = ngh2.StreamClosed
    GoAwayReceived = ngh2.GoAwayReceived
    SettingsReceived = ngh2.SettingsReceived
else:
    RequestReceived = ResponseReceived = InformationalResponseReceived = DataReceived = None
    TrailersReceived = StreamReset = StreamClosed = GoAwayReceived = SettingsReceived = None


# A stream that the peer has reset, or a connection that is over: nothing happens.
UNLESS_OVER: Final = suppress(FramesError)


class BrokenConnection(Exception):
    """The peer has broken the protocol: what is left to send says so, and then it ends."""


class Frames:
    """One side of a connection.

    Call `events` after each `receive` and each `take`: a stream may have ended by either.
    """

    __slots__ = ("_http2", "_is_broken")

    def __init__(self, *, is_client: bool, settings: dict[int, int], **limits: Any) -> None:
        role = ngh2.Role.CLIENT if is_client else ngh2.Role.SERVER
        self._http2 = ngh2.Connection(role, ngh2.Configuration(auto_window_update=False, **limits))
        self._http2.initiate_connection(
            {INITIAL_WINDOW_SIZE: STREAM_WINDOW, MAX_CONCURRENT_STREAMS: MOST_STREAMS, **settings}
        )
        self._is_broken = False
        # One stream that is not read must not use up the connection's window.
        self._http2.set_local_window_size(MOST_STREAMS * STREAM_WINDOW)

    def receive(self, data: bytes | bytearray) -> None:
        """Raises BrokenConnection."""
        try:
            self._http2.receive_data(data)
        except FramesError as error:
            self._is_broken = True
            raise BrokenConnection(str(error)) from None

    # What each token calls does without `suppress`, which takes longer than most of ngh2's methods.

    def events(self) -> list[ngh2.Event]:
        """The events since the last call, in order."""
        try:
            return self._http2.events()
        except FramesError:
            return []

    def take(self) -> bytes:
        """The bytes to send now, as far as the peer's windows allow it."""
        try:
            return self._http2.data_to_send()
        except FramesError:
            return b""

    @property
    def is_over(self) -> bool:
        """Nothing will be read or written any more."""
        return self._is_broken or not (self._http2.want_read or self._http2.want_write)

    # A stream that the peer has reset is unknown by now: nothing happens.

    def send(self, stream: int, data: bytes, *, ends: bool = False) -> None:
        """More of the message, or with `ends` the last of it."""
        try:  # noqa: SIM105
            self._http2.send_data(stream, data, end_stream=ends)
        except FramesError:
            pass

    def trailers(self, stream: int, fields: Fields) -> None:
        """The message is complete, with these behind it."""
        with UNLESS_OVER:
            self._http2.send_trailers(stream, fields)

    def end(self, stream: int) -> None:
        """The message is complete."""
        with UNLESS_OVER:
            self._http2.end_stream(stream)

    def reset(self, stream: int, code: int) -> None:
        """The queued bytes of the stream are dropped."""
        with UNLESS_OVER:
            self._http2.reset_stream(stream, code)

    def queued(self, stream: int) -> int:
        """Bytes of the message that wait for the peer's window, or for `take`."""
        try:
            return self._http2.queued_body_size(stream)
        except FramesError:
            return 0

    def credit(self, stream: int, size: int) -> None:
        """The balancer has passed on `size` bytes of a body: the peer may send as many."""
        if size:
            try:  # noqa: SIM105
                self._http2.acknowledge_received_data(size, stream)
            except FramesError:
                pass

    def go_away(self, code: int = NO_ERROR) -> None:
        """Later streams of the peer are refused, and it knows that they were not served."""
        with UNLESS_OVER:
            self._http2.send_goaway(code)
