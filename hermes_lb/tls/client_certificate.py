"""Header fields that describe a client's certificate to servers.

nginx: `proxy_set_header X-SSL-Client-S-DN $ssl_client_s_dn` and so on. A client's own fields of
these names are dropped (`hermes_lb.http.fields`), whatever the configuration says.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl import SSLObject

    from hermes_lb.http.request import RareFields

_NONE = b"X-SSL-Client-Verify: NONE\r\n"

# RFC 4514 section 3: OpenSSL's names of those types that have a short one.
_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
_SPECIAL = re.compile(rb'[,+"\\<>;=]')
_NOT_VISIBLE = re.compile(rb"[^\x20-\x7e]|^[ #]| $")


def certificate_fields(tls: SSLObject) -> bytes:
    """Field lines: whether OpenSSL accepted a certificate, and whose it is."""
    certificate: Any = tls.getpeercert()
    binary = tls.getpeercert(binary_form=True)
    if not certificate or binary is None:
        return _NONE
    lines = {
        b"Verify": b"SUCCESS",
        b"S-DN": distinguished_name(certificate.get("subject", ())),
        b"Serial": certificate.get("serialNumber", "").encode("ascii"),
        b"Fingerprint": hashlib.sha256(binary).hexdigest().encode("ascii"),
    }
    return b"".join(b"X-SSL-Client-%b: %b\r\n" % item for item in lines.items())


def describes_certificate(said: RareFields) -> bool:
    """True if a trusted proxy speaks for its own client in any of these fields.

    Then all of them are its own: ours would be of the proxy's certificate, and with one of the two
    left out a server would see half of each.
    """
    return any(line.lower().startswith(b"x-ssl-client-") for line in said.forwarded_more)


def distinguished_name(subject: tuple[tuple[tuple[str, str], ...], ...]) -> bytes:
    """A subject as `SSLObject.getpeercert` gives it -> RFC 4514: `CN=agent 7,O=Example`.

    Only visible ASCII is in it: a name that a certificate authority was talked into can't end a
    header field.
    """
    parts = [b"+".join(_attribute(*pair) for pair in several) for several in reversed(subject)]
    return b",".join(parts)


def _attribute(kind: str, value: str) -> bytes:
    text = _SPECIAL.sub(rb"\\\g<0>", value.encode())
    text = _NOT_VISIBLE.sub(lambda match: b"\\%02X" % match[0][0], text)
    return f"{_SHORT.get(kind, kind)}=".encode("ascii", "replace") + text
