"""TLS to servers: contexts from files, resumed sessions, and what went wrong, in words."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, cast

from hermes_lb.options.problems import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hermes_lb.backends import options

_READ = 64 * 1024
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def client_context(configured: options.ServerTls, key: str, protocol: str) -> ssl.SSLContext:
    """The context for connections to the servers of one backend, by this protocol (ALPN).

    Raises ConfigError, with `key` as the table's place, if a file can't be had or is no good.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslobject_class = Tls
    context.minimum_version = _VERSIONS[configured.min_version]
    context.set_alpn_protocols([protocol])
    if not configured.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif configured.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(configured.ca)
        except OSError as error:
            raise _unusable(f"{key}.ca", configured.ca, error, "certificates") from None
    if configured.certificate is not None:
        _load_own(context, configured.certificate, configured.key, key)
    return context


def file_stamps(configured: options.ServerTls | None) -> list[tuple[int, int] | None]:
    """What changes when one of the files does: when it was written, and its size."""
    if configured is None:
        return []
    stamps: list[tuple[int, int] | None] = []
    for name in (configured.ca, configured.certificate, configured.key):
        try:
            found = os.stat(name) if name is not None else None
        except OSError:
            found = None  # reading the file raises the error
        stamps.append(found and (found.st_mtime_ns, found.st_size))
    return stamps


def _load_own(context: ssl.SSLContext, certificate: str, key_file: str | None, key: str) -> None:
    try:
        # Without a password, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key_file, password=_no_password)
    except ssl.SSLError as error:
        what = "a certificate and its key"
        raise _unusable(f"{key}.certificate", certificate, error, what) from None
    except _HasPassphrase:
        message = f'the key of "{certificate}" has a passphrase: write it without one'
        raise ConfigError([Problem(f"{key}.certificate", None, message)], None) from None
    except OSError as error:
        # OpenSSL does not say which of the two files it is.
        names = f"{certificate} or {key_file}" if key_file else certificate
        raise _unusable(f"{key}.certificate", names, error, "") from None


class _HasPassphrase(Exception):
    pass


def _no_password() -> str:
    raise _HasPassphrase


def _unusable(key: str, file: str, error: OSError, what: str) -> ConfigError:
    if isinstance(error, ssl.SSLError):
        detail = (error.reason or "").lower().replace("_", " ")
        message = f'"{file}" does not hold {what} in PEM form{detail and f" ({detail})"}'
    else:
        message = f'"{file}" can\'t be read: {error.strerror or error}'
    return ConfigError([Problem(key, None, message)], None)


class Tls(ssl.SSLObject):
    """One connection's TLS. `incoming` takes the server's encrypted bytes."""

    incoming: ssl.MemoryBIO

    def decrypt(self, received: Iterable[bytes]) -> Iterator[bytes]:
        """Continue where the event loop has stopped, up to the end or a TLS error."""
        for data in received:
            self.incoming.write(data)
            try:
                while plain := self.read(_READ):
                    yield plain
            except ssl.SSLWantReadError:
                continue  # a record is not complete
            except ssl.SSLError:
                return
            return  # its close_notify


class Resuming:
    """A context for connections to one server, each of which resumes the session of an earlier one.

    asyncio's and uvloop's `create_connection` have no argument for a session. All they call of
    their `ssl` is `wrap_bio`, so that is where one comes in.
    """

    __slots__ = ("_context", "session")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.session: ssl.SSLSession | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
    ) -> ssl.SSLObject:
        tls = self._context.wrap_bio(incoming, outgoing, server_side, server_hostname, self.session)
        if isinstance(tls, Tls):
            tls.incoming = incoming
        return tls

    @property
    def as_context(self) -> ssl.SSLContext:
        """Itself, for the type checker."""
        return cast("ssl.SSLContext", self)


# OpenSSL's `X509_V_ERR_*` that people meet, in our words; the others in OpenSSL's.
_VERIFY_ERRORS = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is signed by itself, and ca does not have it",
    19: "its certificate is signed by an authority that ca does not have",
    20: "its certificate is signed by an authority that ca does not have",
    21: "its certificate is signed by an authority that ca does not have",
    23: "its certificate has been revoked",
}
_NAME_ERRORS = (62, 64)  # host name, IP address


def tls_in_words(error: ssl.SSLError) -> str:
    """Why there is no TLS with a server: "its certificate has expired", ..."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _NAME_ERRORS:
            # "Hostname mismatch, certificate is not valid for 'agents.internal'."
            name = error.verify_message.rpartition("for ")[2].rstrip(".")
            return f"its certificate is not valid for {name}"
        return _VERIFY_ERRORS.get(error.verify_code, f"its certificate: {error.verify_message}")
    reason = getattr(error, "reason", None) or ""  # none if Python made it
    if "ALERT_" in reason:
        return f"it refused TLS: {_plain(reason.partition('ALERT_')[2])}"
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "it does not speak TLS"
    if reason == "UNSUPPORTED_PROTOCOL":
        return "it has no version of TLS that is new enough"
    return f"TLS failed: {_plain(reason) or error.strerror or error}"


def _plain(reason: str) -> str:
    return reason.lower().replace("_", " ")
