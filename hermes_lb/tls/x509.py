"""Reads names, expiry and kind of key of the balancer's own certificates. No I/O.

Python's ssl does not report this for a certificate that it serves. It is a walk along a known path
of the DER (RFC 5280 section 4.1), over files that the operator gave; nothing is verified here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tags.
_OBJECT_ID = 0x06
_UTC_TIME = 0x17
_DNS_NAME = 0x82
_VERSION, _EXTENSIONS = 0xA0, 0xA3

_SUBJECT_ALT_NAME = bytes.fromhex("551d11")  # 2.5.29.17


class Certified(NamedTuple):
    """`names`: of subjectAltName, in lower case, such as "*.example.com".

    `key_kind`: the object identifier of the key's algorithm, as DER (RFC 5280 section 4.1.2.7).
    Two elliptic curves are one kind, as they are to OpenSSL.
    """

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    key_kind: bytes


def read_certificate(der: bytes) -> Certified:
    """Raises ValueError if it is no certificate."""
    try:
        [(_, certificate)] = _elements(der)
        (_, to_be_signed), *_ = _elements(certificate)
        fields = list(_elements(to_be_signed))
        if fields[0][0] == _VERSION:
            del fields[0]
        # serial number, signature algorithm, issuer, validity, subject, key, ...
        not_before, not_after = (_time(tag, value) for tag, value in _elements(fields[3][1]))
        (_, algorithm), *_ = _elements(fields[5][1])
        (_, key_kind), *_ = _elements(algorithm)
        extensions = [value for tag, value in fields if tag == _EXTENSIONS]
        names = tuple(_names(extensions[0])) if extensions else ()
    except (ValueError, IndexError):
        raise ValueError("it is no X.509 certificate") from None
    return Certified(names, not_before, not_after, key_kind)


def _names(extensions: bytes) -> list[str]:
    [(_, listed)] = _elements(extensions)
    for _, extension in _elements(listed):
        identity, *_, (_, value) = _elements(extension)
        if identity == (_OBJECT_ID, _SUBJECT_ALT_NAME):
            [(_, names)] = _elements(value)
            return [n.decode("ascii").lower() for tag, n in _elements(names) if tag == _DNS_NAME]
    return []


def _time(tag: int, value: bytes) -> datetime:
    """RFC 5280 section 4.1.2.5: two digits of the year are 1950 to 2049, as strptime has it not."""
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = ("20" if text < "5" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each element of DER."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise IndexError("an element is cut")
        yield tag, data[at : at + length]
        at += length
