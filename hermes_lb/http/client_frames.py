"""A connection by HTTP/2 to a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.http import frames as http2
from hermes_lb.http.frames import UNLESS_OVER, Frames, FramesError

if TYPE_CHECKING:
    from hermes_lb.http.frames import Fields

# One head that is too large is its own request's error, and not that of all others on the
# connection, as long as it is not larger than this many times what a head may have.
_TOLERANCE = 8


class ClientFrames(Frames):
    """The client's side."""

    __slots__ = ()

    def __init__(self, *, most_in_head: int, most_fields: int) -> None:
        super().__init__(
            is_client=True,
            settings={http2.ENABLE_PUSH: 0, http2.MAX_HEADER_LIST_SIZE: most_in_head},
            max_inbound_header_list_size=_TOLERANCE * most_in_head,
            max_inbound_header_count=_TOLERANCE * most_fields,
        )

    @property
    def can_ask(self) -> bool:
        """False once the server has gone away, or no number of a stream is left."""
        try:
            return self._http2.can_send_request
        except FramesError:
            return False

    def request(self, fields: Fields, *, ends: bool) -> int:
        """Send a request's head -> its stream; 0: not `can_ask`."""
        try:
            return self._http2.send_request(fields, end_stream=ends)
        except FramesError:
            return 0

    def ping(self) -> None:
        with UNLESS_OVER:
            self._http2.ping()
