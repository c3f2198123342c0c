"""The admin listener's TLS, from its two files."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.config.process import AdminTls


def admin_context(configured: AdminTls) -> ssl.SSLContext:
    """Raises OSError for a file that can't be read, ValueError for an unusable one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # And no other group, in TLS 1.3 either: OpenSSL's default lets a client choose one that costs
    # us 0.1 s of CPU (`proxy.client_hello`).
    context.set_ecdh_curve("prime256v1")
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    load_certificate(context, configured)
    return context


def load_certificate(context: ssl.SSLContext, configured: AdminTls) -> None:
    """For new handshakes. Raises as `admin_context`; the context may be unusable then."""
    try:
        context.load_cert_chain(configured.certificate, configured.key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise ValueError(
            f"{configured.certificate} and {configured.key} ([admin.tls]) are no certificate with "
            f"its key: {error.reason or 'OpenSSL can not read them'}"
        ) from None
    except OSError as error:
        raise OSError(
            error.errno,
            f"can't read {configured.certificate} or {configured.key} ([admin.tls]): "
            f"{error.strerror}",
        ) from None


def _no_passphrase() -> str:
    raise ValueError("the key of [admin.tls] has a passphrase, which can't be entered here")
