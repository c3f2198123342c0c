"""TLS between a client's socket and its connection: a transport to the one above it.

asyncio and uvloop have TLS of their own. They report a connection only after its handshake, so that
clients in a handshake would count nowhere (`max_connections`, `connections_per_client`), and a
failed handshake not at all; and nothing can come before the handshake (a PROXY header) or instead
of it (plain HTTP, which gets an error response). Here a client counts from accept on, on either
loop, and its deadline runs from then. The cost is uvloop's: 30 us of CPU for a small request, and
19 KiB instead of 26 for an idle connection.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from hermes_lb.errors import RequestRefused
from hermes_lb.tls.client_certificate import certificate_fields
from hermes_lb.tls.client_hello import Malformed, NotTls, read_client_hello
from hermes_lb.tls.records import MOST_BARREN, Records
from hermes_lb.transport.endpoint import PEER, SHARE, UNREAD, pause, resume

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hermes_lb.tls.above import TlsClient
    from hermes_lb.tls.certificates import Certificates
    from hermes_lb.transport.run_queue import RunQueue

# Bytes that OpenSSL gives at a time at most: what fits into a record (RFC 8446 section 5.1).
_RECORD = 16 * 1024
# Parts of `Records.split` that are decrypted at once: 128 records, a third of a millisecond. A
# record of one byte has 23 or more, so 256 KiB may be 11,000 of them.
_MOST_PARTS = 4
# Bytes; a read up to this size is processed at once.
_NEVER_BEHIND = _MOST_PARTS * MOST_BARREN * 5

# Fatal alerts (RFC 8446 section 6; RFC 7301 section 3.2) as whole records.
_UNRECOGNIZED_NAME = bytes.fromhex("15030300020270")
_DECODE_ERROR = bytes.fromhex("15030300020232")
_HANDSHAKE_FAILURE = bytes.fromhex("15030300020228")
_NO_APPLICATION_PROTOCOL = bytes.fromhex("15030300020278")

_REASONS = {
    "NO_SHARED_CIPHER": "TLS: the client has no cipher of ours",
    "UNSUPPORTED_PROTOCOL": "TLS: the client's version is too old",
    "CERTIFICATE_VERIFY_FAILED": "TLS: the client's certificate is not accepted",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "TLS: the client has no certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "TLS: the client does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "TLS: our certificate has expired, says the client",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "TLS: the client does not accept our certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "TLS: the client does not know who signed our certificate",
}
_FAILED = "TLS: the handshake failed"
_TOO_MANY = "TLS: too many records without data"


class TlsLayer(asyncio.Transport, asyncio.Protocol):
    """One client's TLS: the protocol of its socket, and the transport of its `TlsClient`.

    It passes through: the hello is read; the handshake; open; and, when we have said that we are
    done, half-closed: the client may still send (RFC 8446 section 6.1).
    """

    __slots__ = (
        "_above",
        "_barren",
        "_certificates",
        "_client",
        "_error",
        "_has_ended",
        "_has_said_goodbye",
        "_hello",
        "_in",
        "_is_open",
        "_is_writing_paused",
        "_needs",
        "_out",
        "_paused_by",
        "_raw",
        "_records",
        "_run_queue",
        "_server_name",
        "_tls",
        "_waiting",
    )

    def __init__(self, client: TlsClient, certificates: Certificates, run_queue: RunQueue) -> None:
        super().__init__()
        self._client = client
        self._above: Any = client  # the receiver of the bytes: a tunnel's end, later
        self._certificates: Certificates | None = certificates
        self._run_queue = run_queue
        self._raw: asyncio.Transport = cast("asyncio.Transport", None)
        self._hello: bytearray | None = bytearray()
        self._server_name = ""  # in it
        self._needs = 1  # bytes of it, before it is worth a look
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._records = Records()
        self._barren = 0  # records since the last one with data
        self._waiting: list[tuple[bytes, int]] = []  # parts that are still to be decrypted
        self._paused_by = 0  # reasons not to read from the socket
        self._is_writing_paused = False
        self._is_open = False
        self._has_ended = False  # the client has said that it is done
        self._has_said_goodbye = False
        self._error: Exception | None = None  # why it ended, if not cleanly

    def __repr__(self) -> str:
        state = "open" if self._is_open else "in its handshake"
        return f"<TlsLayer of {self._client!r}, {state}>"

    # What the event loop calls: the protocol of the socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._client.connection_made(self)

    def data_received(self, data: bytes) -> None:
        if self._is_open:
            self._decrypt(self._records.split(data))
            if len(data) > _NEVER_BEHIND and self._tls is not None:
                self._run_queue.received(self, len(data))
        elif self._hello is not None:
            self._hear(self._hello, data)
        elif self._tls is not None:
            self._in.write(data)
            self._shake_hands(self._tls)
        else:
            self._above.data_received(data)  # not TLS, and a response to that is being sent

    def eof_received(self) -> bool:
        """The socket has ended; without a close_notify before, an attacker may have cut it."""
        if not self._is_open or self._client.is_closing:
            return bool(self._above.eof_received())
        if self._error is None and not self._has_ended:
            self._break(ConnectionAbortedError("the client's TLS ended without a close_notify"))
        return True

    def connection_lost(self, error: Exception | None) -> None:
        has_begun = self._hello is None or len(self._hello) > 0  # or it never said a word
        if has_begun and not self._is_open:
            self._client.tls_failed()
        above, self._above = self._above, None
        above.connection_lost(error or self._error)
        self._tls = self._certificates = None
        self._waiting = []
        self._client = cast("TlsClient", None)  # a circle less for the garbage collector

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self.resume_from(UNREAD)
        self._above.resume_writing()

    # The handshake.

    def _hear(self, hello: bytearray, data: bytes) -> None:
        """More of the client's first message."""
        client, certificates = self._client, self._certificates
        if client.is_closing or certificates is None:
            return
        client.tls_begun()
        hello += data
        if len(hello) < self._needs:
            return
        try:
            said = read_client_hello(hello)
        except NotTls:
            self._hello = None
            self._answer_plain(hello)
            return
        except Malformed:
            self._raw.write(_DECODE_ERROR)
            client.reject(_FAILED)
            return
        if isinstance(said, int):
            self._needs = said
            return
        self._hello = None
        self._server_name = said.server_name
        context = certificates.context_for(said.server_name)
        if context is None:
            self._raw.write(_UNRECOGNIZED_NAME)
            client.reject("TLS: no certificate has the name that the client wants")
        elif said.is_costly:
            self._raw.write(_HANDSHAKE_FAILURE)
            client.reject("TLS: the client has no elliptic curve of ours")
        elif said.protocols is not None and not (
            set(said.protocols).intersection(certificates.protocols)
        ):
            # A client that offers only other protocols must be refused (RFC 7301).
            self._raw.write(_NO_APPLICATION_PROTOCOL)
            client.reject("TLS: the client speaks no HTTP/1.1")
        else:
            self._tls = context.wrap_bio(self._in, self._out, server_side=True)
            self._in.write(hello)
            self._shake_hands(self._tls)

    def _answer_plain(self, data: bytearray) -> None:
        client = self._client
        if data[:1].isalpha():  # nginx: 497, "plain HTTP request was sent to HTTPS port"
            client.refuse(RequestRefused(400, "this port speaks TLS: use https://"))
        else:
            client.reject("TLS: what came is neither TLS nor HTTP")

    def _shake_hands(self, tls: ssl.SSLObject) -> None:
        client = self._client
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert
            client.reject(_REASONS.get(_reason(error), _FAILED))
            return
        self._flush()
        self._is_open = True
        forwards = self._certificates is not None and self._certificates.forwards_client_certificate
        version = sys.intern(tls.version() or "")
        certificate = certificate_fields(tls) if forwards else b""
        client.tls_opened(version, self._server_name, certificate)
        self._certificates = None
        if self._in.pending:  # the beginning of a record: OpenSSL reads no further than it must
            self._decrypt(self._records.split(self._in.read()))

    # Input.

    @property
    def behind(self) -> int:
        return len(self._waiting)

    def go_on(self) -> None:
        self._decrypt(())

    def _decrypt(self, parts: Sequence[tuple[bytes, int]]) -> None:
        """These parts, behind those that wait; what is too much for one go waits."""
        tls, waiting = self._tls, self._in
        if tls is None:
            return
        if self._waiting or len(parts) > _MOST_PARTS:
            self._waiting += parts
            parts = self._waiting[:_MOST_PARTS]
            del self._waiting[:_MOST_PARTS]
        records: list[bytes] = []
        for part, begun in parts:
            waiting.write(part)
            self._barren += begun
            try:
                while waiting.pending:
                    if record := tls.read(_RECORD):
                        records.append(record)
                    else:
                        self._has_ended = True
                        break
            except ssl.SSLWantReadError:
                pass  # the rest of a record will come
            except ssl.SSLZeroReturnError:
                self._has_ended = True
            except ssl.SSLError as error:
                self._break(ConnectionAbortedError(f"the client's TLS broke ({_reason(error)})"))
                break
            if self._barren - len(records) > MOST_BARREN:
                self._waiting = []
                self._client.cut(_TOO_MANY)
                return
            if self._has_ended:
                break
        if self._out.pending:
            self._answer()
        if records:
            self._barren = 0
            self._above.data_received(records[0] if len(records) == 1 else b"".join(records))
        if self._has_ended:
            self._waiting = []
            if not self._above.eof_received():
                self.close()

    def _answer(self) -> None:
        """Send an alert, or new keys. A client that does not read them gets no more of them."""
        self._flush()
        if self._is_writing_paused:
            self.pause_for(UNREAD)

    def _break(self, error: Exception) -> None:
        """End at once, and not as if it were the client's will."""
        self._error = error
        self._waiting = []
        self._raw.abort()

    def _flush(self) -> None:
        self._raw.write(self._out.read())

    # What the client connection calls: its transport.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._tls is not None:
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                self._break(ConnectionAbortedError(f"TLS can't be written ({_reason(error)})"))
                return
            data = self._out.read()
        self._raw.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def _say_goodbye(self) -> None:
        """close_notify: what we sent is whole. An answer to it is not waited for."""
        if self._is_open and not self._has_said_goodbye and self._tls is not None:
            self._has_said_goodbye = True
            with suppress(ssl.SSLError):  # SSLWantReadError: the other side has not said so
                self._tls.unwrap()
            self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._say_goodbye()
        self._raw.write_eof()

    def close(self) -> None:
        if not self._raw.is_closing():
            self._say_goodbye()
            self._raw.close()

    def abort(self) -> None:
        """Without a close_notify, so that the client can tell."""
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    @property
    def has_had_its_share(self) -> bool:
        return bool(self._paused_by & SHARE)

    def pause_reading(self) -> None:
        self.pause_for(PEER)

    def resume_reading(self) -> None:
        self.resume_from(PEER)

    def pause_for(self, reason: int) -> None:
        self._paused_by = pause(self._raw, self._paused_by, reason)

    def resume_from(self, reasons: int) -> None:
        self._paused_by = resume(self._raw, self._paused_by, reasons)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._above = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", self._above)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        return self._raw.get_extra_info(name, default)


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name for it; Python raises some of its own, which have none."""
    return getattr(error, "reason", None) or str(error)
