"""TLS to clients that show a certificate of their own, or should, or claim to."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from hermes_lb.tls.client_certificate import distinguished_name
from tests.support.certificates import authority, ca_file, trusting
from tests.support.http_peer import Ended
from tests.support.tls import TlsClient, refused, resuming_client, tls_client, with_tls

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.origin import Origin
    from tests.support.stage import Stage


async def ask_in_vain(client: TlsClient) -> None:
    """In TLS 1.3 a client is done before the server has seen its certificate."""
    await client.get()
    with pytest.raises((ssl.SSLError, Ended)):
        await client.read_response()


def a_client(*, is_known: bool = True) -> ssl.SSLContext:
    context = trusting()
    issuer = authority() if is_known else trustme.CA()
    issuer.issue_cert(
        "agent7.test", common_name="agent 7, the \N{SNOWMAN}", organization_name="Example"
    ).configure_cert(context)
    return context


async def asking_for_certificates(
    stage: Stage, tmp_path: Path, certificate: str, **options: Any
) -> tuple[LoadBalancer, Origin]:
    """A balancer that asks its clients for certificates and tells its server of them."""
    origin = await stage.serving()
    frontend = with_tls(certificate, client_ca=ca_file(tmp_path), client_headers=True, **options)
    return await stage.balancer(origin, frontend=frontend), origin


async def test_servers_receive_the_name_of_a_certified_client(
    stage: Stage, tmp_path: Path, certificate: str
) -> None:
    lb, origin = await asking_for_certificates(stage, tmp_path, certificate)
    client = await tls_client(stage, lb, context=a_client())
    await client.get("/", "X-SSL-Client-Verify: NONE", "x-ssl-client-s-dn: CN=root")
    assert (await client.read_response()).status == 200
    [message] = origin.requests
    assert message.get("X-SSL-Client-Verify") == "SUCCESS"
    name = message.get("X-SSL-Client-S-DN")
    assert name is not None
    assert r"CN=agent 7\, the \E2\98\83" in name
    assert "O=Example" in name
    assert len(message.get("X-SSL-Client-Fingerprint") or "") == 64
    assert message.get("X-SSL-Client-Serial")


async def test_a_client_that_resumes_is_still_known(
    stage: Stage, tmp_path: Path, certificate: str
) -> None:
    lb, origin = await asking_for_certificates(stage, tmp_path, certificate)
    context = a_client()
    first = await tls_client(stage, lb, context=context)
    await first.ask()
    again = await resuming_client(stage, lb, context, first)
    assert (await again.ask()).status == 200
    assert again.tls.session_reused
    one, two = (message.get("X-SSL-Client-Fingerprint") for message in origin.requests)
    assert one is not None
    assert one == two


async def test_a_client_without_a_certificate_is_refused(
    stage: Stage, tmp_path: Path, certificate: str
) -> None:
    lb, origin = await asking_for_certificates(stage, tmp_path, certificate)
    client = await tls_client(stage, lb)
    await ask_in_vain(client)
    assert (await refused(stage, lb)).reason == "TLS: the client has no certificate"
    assert origin.requests == []


async def test_a_client_of_another_authority_is_refused(
    stage: Stage, tmp_path: Path, certificate: str
) -> None:
    lb, origin = await asking_for_certificates(stage, tmp_path, certificate, client_auth="optional")
    client = await tls_client(stage, lb, context=a_client(is_known=False))
    await ask_in_vain(client)
    assert (await refused(stage, lb)).reason == "TLS: the client's certificate is not accepted"
    assert origin.requests == []


async def test_a_certificate_may_be_optional(
    stage: Stage, tmp_path: Path, certificate: str
) -> None:
    lb, origin = await asking_for_certificates(stage, tmp_path, certificate, client_auth="optional")
    client = await tls_client(stage, lb)
    await client.get("/", "X-SSL-Client-Verify: SUCCESS", "X-SSL-Client-S-DN: CN=root")
    assert (await client.read_response()).status == 200
    [message] = origin.requests
    assert message.get("X-SSL-Client-Verify") == "NONE"
    assert message.get("X-SSL-Client-S-DN") is None


async def told_by_a_proxy(
    stage: Stage, tmp_path: Path, certificate: str, *fields: str, has_one: bool = True
) -> dict[str, str]:
    """The fields that servers get about the certificate of a client that is a trusted proxy."""
    origin = await stage.serving()
    frontend = with_tls(
        certificate, client_ca=ca_file(tmp_path), client_headers=True, client_auth="optional"
    )
    lb = await stage.balancer(origin, frontend=frontend | {"trusted_proxies": ["127.0.0.0/8"]})
    client = await tls_client(stage, lb, context=a_client() if has_one else trusting())
    assert (await client.ask("/", *fields)).status == 200
    [message] = origin.requests
    assert message.get("X-Real-IP") == "127.0.0.1"
    return {name: value for name, value in message.head.fields if name.lower().startswith("x-ssl-")}


@pytest.mark.parametrize("fields", [(), ("X-Forwarded-Port: 443",)], ids=["plain", "forwarded"])
async def test_a_trusted_proxy_that_tells_of_no_certificate_is_known_by_its_own(
    stage: Stage, tmp_path: Path, certificate: str, fields: tuple[str, ...]
) -> None:
    told = await told_by_a_proxy(stage, tmp_path, certificate, *fields)
    assert told["X-SSL-Client-Verify"] == "SUCCESS"
    assert "CN=agent 7" in told["X-SSL-Client-S-DN"]
    assert set(told) == {f"X-SSL-Client-{n}" for n in ("Verify", "S-DN", "Serial", "Fingerprint")}
    told = await told_by_a_proxy(stage, tmp_path, certificate, *fields, has_one=False)
    assert told == {"X-SSL-Client-Verify": "NONE"}


@pytest.mark.parametrize(
    "fields",
    [
        {"X-SSL-Client-Verify": "NONE"},
        {"x-ssl-client-verify": "SUCCESS", "X-Ssl-Client-S-Dn": "CN=of its own client"},
    ],
    ids=["none", "one"],
)
async def test_what_a_trusted_proxy_tells_of_its_client_is_not_mixed_with_ours(
    stage: Stage, tmp_path: Path, certificate: str, fields: dict[str, str]
) -> None:
    lines = [f"{name}: {value}" for name, value in fields.items()]
    assert await told_by_a_proxy(stage, tmp_path, certificate, *lines) == fields


async def test_nobody_can_claim_a_certificate_where_none_is_asked_for(stage: Stage) -> None:
    _, client, origin = await stage.served()
    await client.ask("/", "X-SSL-Client-Verify: SUCCESS", "X_SSL_Client_Verify: SUCCESS")
    assert "ssl" not in str(origin.requests[0].head.fields).lower()


def test_a_name_in_a_header_is_visible_ascii() -> None:
    subject = (
        (("countryName", "DE"),),
        (("organizationName", "A, B + C"), ("organizationalUnitName", "#1")),
        (("commonName", "x\r\nEvil: yes "),),
        (("1.2.3", "\\"),),
    )
    assert distinguished_name(subject) == (
        rb"1.2.3=\\,CN=x\0D\0AEvil: yes\20,O=A\, B \+ C+OU=\231,C=DE"
    )
