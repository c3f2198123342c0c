"""Our cookies beside a real HAProxy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.affinity.real_haproxy import needs_haproxy, running_haproxy
from tests.affinity.test_cookie import NOCACHE, affinity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.affinity.real_haproxy import HAProxy

pytestmark = needs_haproxy


@pytest.fixture(scope="module")
def haproxy() -> Iterator[HAProxy]:
    with running_haproxy() as running:
        yield running


@pytest.mark.parametrize(("method", "status", "headers", "expected"), NOCACHE)
def test_nocache(haproxy: HAProxy, method, status, headers, expected):
    answer = haproxy.ask(method, status=status, headers=headers)
    theirs = [value for name, value in headers if name.lower() == b"cache-control"]
    assert len(answer.set_cookies) >= 1
    assert answer.cache_control == theirs + [b"private"] * expected


@pytest.mark.parametrize(
    "cookies",
    [
        [b"SERVERID=agent2"],
        [b"SERVERID=agent2; a=b"],
        [b"a=b; SERVERID=agent2"],
        [b"a=b; SERVERID=agent2; c=d"],
        [b"SERVERID=agent2;  c=d"],
        [b"SERVERID= agent2"],
        [b"SERVERID=agent2;"],
        [b"a=b;;SERVERID=agent2"],
        [b"SERVERID="],
        [b"SERVERID"],
        [b'SERVERID="agent2"'],
        [b"SERVERID=nope"],
        [b"SERVERID=agent3"],
        [b"serverid=agent2"],
        [b"XSERVERID=agent2"],
        [b"x=SERVERID=agent2"],
        [b'x="a; SERVERID=agent2"'],
        [b'x="a\\"; SERVERID=agent2"; y=z'],
        [b'x="a; SERVERID=agent2'],
        [b"SERVERID; SERVERID=agent2"],
        [b"SERVERID=agent1; SERVERID=agent2"],
        [b"SERVERID=nope; SERVERID=agent2"],
        [b"SERVERID=agent3; SERVERID=agent2"],
        [b"SERVERID=agent2; x=y; SERVERID=agent1; z=1"],
        [b"SERVERID=agent2", b"SERVERID=agent1"],
        [b"a=b", b"SERVERID=agent2", b"c=d; SERVERID=agent1", b"e=f"],
    ],
)
def test_cookies_of_a_request(haproxy: HAProxy, cookies: list[bytes]):
    """Twice, as HAProxy's turns would otherwise hide which server a cookie stands for."""
    ours, _ = affinity()
    value, remaining = ours.extract(cookies)
    named = None if value is None else ours.server_for(value)
    for _ in range(2):
        answer = haproxy.ask(cookies=cookies)
        assert answer.cookies_seen == remaining
        assert (answer.set_cookies == []) == (named is not None and named.is_up)


def test_cookie_of_a_response(haproxy: HAProxy):
    ours, servers = affinity()
    known = {ours.set_cookie(server) for server in servers}
    own = [(b"Set-Cookie", value) for value in (b"SERVERID=q; Path=/", b"serverid=q", b"a=b")]
    first, inserted = haproxy.ask(headers=own).set_cookies[:-1], haproxy.ask().set_cookies
    assert first == [value for _, value in own if not ours.strips(value)]
    assert set(inserted) < known
