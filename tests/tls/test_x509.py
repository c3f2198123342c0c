"""Names and dates of a certificate."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.tls.x509 import read_certificate
from tests.support.certificates import authority


def der(
    *names: str,
    expires: datetime | None = None,
    kind: trustme.KeyType = trustme.KeyType.ECDSA,
) -> bytes:
    issued = authority().issue_cert(*names, not_after=expires, key_type=kind)
    return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


def test_names_are_those_of_hosts_in_lower_case() -> None:
    read = read_certificate(der("A.test", "*.b.test", "127.0.0.1", "::1"))
    assert read.names == ("a.test", "*.b.test")


def test_a_certificate_without_names_has_none() -> None:
    assert read_certificate(der("10.0.0.1")).names == ()


def test_the_kind_of_key_is_what_openssl_keeps_apart() -> None:
    rsa, one, other = (
        read_certificate(der("a.test", kind=kind)).key_kind
        for kind in (trustme.KeyType.RSA, trustme.KeyType.ECDSA, trustme.KeyType.ECDSA)
    )
    assert rsa == bytes.fromhex("2a864886f70d010101")  # 1.2.840.113549.1.1.1, RFC 3279
    assert one == other == bytes.fromhex("2a8648ce3d0201")  # 1.2.840.10045.2.1


@pytest.mark.parametrize("year", [2001, 2027, 2049, 2050, 9999])
def test_dates_have_both_forms_of_rfc_5280(year: int) -> None:
    expires = datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert read_certificate(der("a.test", expires=expires)).not_after == expires


@pytest.mark.parametrize("data", [b"", b"0", b"\x30\x80", b"\x30\x03abc", b"hello", b"\x30\0"])
def test_something_else_is_an_error_in_words(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it is no X\.509 certificate$"):
        read_certificate(data)


@given(st.data())
def test_a_damaged_one_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(_GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        read_certificate(bytes(damaged))


_GOOD = der("a.test", "*.b.test")
