"""A connection by HTTP/2 from a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.http import frames as http2
from hermes_lb.http.frames import UNLESS_OVER, Frames, FramesError

if TYPE_CHECKING:
    from hermes_lb.http.frames import Fields

# Stream resets by the client: as many at once, and as many a second (CVE-2023-44487; HAProxy's
# `tune.h2.fe.*`). An agent's client cancels a request now and then, a browser all of a page.
_RESETS: Final = 200, 20
# Frames that are odd, the same: requests that the codec resets as malformed (CVE-2025-8671), empty
# DATA, priorities, frames of unknown types. An old Firefox sends a PRIORITY for each request.
_ODDITIES: Final = 1000, 100


class Codec(Frames):
    """The server's side."""

    __slots__ = ()

    def __init__(self, *, most_in_head: int, most_fields: int) -> None:
        # HTTP/1.1's parser counts; these bound what is unpacked until then (RFC 9113 section 6.5.2:
        # 32 bytes for each field). Crumbs of a cookie are several fields, as is a request line.
        most_fields *= 2
        most_in_head += 32 * most_fields
        super().__init__(
            is_client=False,
            settings={http2.MAX_HEADER_LIST_SIZE: most_in_head, http2.ENABLE_CONNECT_PROTOCOL: 1},
            stream_reset_rate_limit=_RESETS,
            glitch_rate_limit=_ODDITIES,
            max_inbound_header_list_size=most_in_head,
            max_inbound_header_count=most_fields,
        )

    def respond(self, stream: int, fields: Fields, *, ends: bool) -> None:
        try:  # noqa: SIM105 - as `Frames.send`
            self._http2.send_response(stream, fields, end_stream=ends)
        except FramesError:
            pass

    def inform(self, stream: int, fields: Fields) -> None:
        """A 1xx."""
        with UNLESS_OVER:
            self._http2.send_informational_response(stream, fields)

    def announce_end(self) -> None:
        """The first GOAWAY of two: streams on their way are still served (RFC 9113 section 6.8)."""
        with UNLESS_OVER:
            self._http2.send_shutdown_notice()
