"""The client's side of a connection by HTTP/2, as h2 (hyper) reads and writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import h2.settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW = 65_535  # of a stream, unless settings say another (RFC 9113 section 6.5.2)


class ClientFrames:
    """h2 is the oracle: it refuses what the balancer must not send."""

    def __init__(
        self, *, window: int = _WINDOW, checks: bool = True, encoding: str | None = None
    ) -> None:
        """`checks` False: h2 sends fields that no client may send."""
        configured = h2.config.H2Configuration(
            header_encoding=encoding,
            validate_outbound_headers=checks,
            normalize_outbound_headers=checks,
        )
        self.http2 = http2 = h2.connection.H2Connection(configured)
        http2.initiate_connection()
        if window != _WINDOW:
            http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        http2.increment_flow_control_window(2**24)
        self._partial = bytearray()

    def receive(self, data: bytes) -> Iterator[h2.events.Event]:
        """Frame by frame, since h2 drops those behind a GOAWAY; open streams go on (RFC 9113
        section 6.8)."""
        partial = self._partial
        partial += data
        while len(partial) >= 9 and len(partial) >= (size := 9 + int.from_bytes(partial[:3])):
            frame = bytes(partial[:size])
            del partial[:size]
            for event in self.http2.receive_data(frame):
                yield event
                if isinstance(event, h2.events.ConnectionTerminated):
                    self.http2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
