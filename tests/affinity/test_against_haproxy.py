"""Our cookies beside a real HAProxy's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from hermes_lb.affinity import dates
from tests.affinity.real_haproxy import needs_haproxy, running_haproxy
from tests.affinity.test_cookie import NOCACHE, affinity, set_cookie

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
    known = {set_cookie(ours, server) for server in servers}
    own = [(b"Set-Cookie", value) for value in (b"SERVERID=q; Path=/", b"serverid=q", b"a=b")]
    first, inserted = haproxy.ask(headers=own).set_cookies[:-1], haproxy.ask().set_cookies
    assert first == [value for _, value in own if not ours.strips(value)]
    assert set(inserted) < known


OWN = [
    b"SERVERID=q; Path=/; HttpOnly",
    b"SERVERID=q",
    b"SERVERID=",
    b"serverid=q",
    b"a=b",
    b"SERVERID=q=r;Secure",
]


@pytest.mark.parametrize("mode", ["rewrite", "prefix"])
def test_the_servers_own_cookie(mode: str) -> None:
    """The cookie on its way to the client, and back."""
    ours, servers = affinity(mode=mode)
    by_value = {server.name.encode(): server for server in servers}
    with running_haproxy(mode) as haproxy:
        for own in OWN:
            (theirs,) = haproxy.ask(headers=[(b"Set-Cookie", own)]).set_cookies
            named = theirs.partition(b"=")[2].partition(b";")[0].partition(b"~")[0]
            if named in by_value:
                assert ours.strips(own)
                assert theirs == ours.rewritten(own, by_value[named])
            else:
                assert theirs == own
                assert not ours.strips(own)
        assert haproxy.ask().set_cookies == []
        for cookies in (
            [b"SERVERID=agent2"],
            [b"SERVERID=agent2~abc"],
            [b"a=b; SERVERID=agent2~abc; c=d"],
            [b"SERVERID=agent2~a~b"],
            [b"SERVERID=nope~abc"],
            [b"SERVERID=~abc"],
            [b"SERVERID=abc"],
        ):
            _, remaining = ours.extract(cookies)
            for _ in range(2):
                assert haproxy.ask(cookies=cookies).cookies_seen == remaining, cookies


def test_cookies_with_dates() -> None:
    """HAProxy's dates are read as it reads them, and ours are good for it."""
    ours, servers = affinity(max_idle="30m", max_life="8h")
    now = int(time.time())
    agent2 = servers[1]
    with running_haproxy("insert indirect nocache maxidle 30m maxlife 8h") as haproxy:
        (theirs,) = haproxy.ask().set_cookies
        reading = ours.read(theirs.partition(b"=")[2].partition(b";")[0], now)
        assert reading.server in servers
        assert now - 8 <= reading.last == reading.first <= now + 8
        for idle, life in ((0, 0), (60, 3600), (1790, 20_000), (1850, 1850), (10, 28_900)):
            value = b"agent2|%b|%b" % (dates.to_text(now - idle), dates.to_text(now - life))
            for _ in range(3):
                sent = haproxy.ask(cookies=[b"SERVERID=" + value]).set_cookies
                is_kept = ours.read(value, now).server is agent2
                assert is_kept == (idle <= 1800 and life <= 28_800)
                if not sent:
                    assert is_kept
                    continue
                again = ours.read(sent[0].partition(b"=")[2].partition(b";")[0], now)
                if is_kept:  # it stays, with a new date of last use and the old first one
                    assert again.server is agent2
                    assert abs(again.first - (now - life)) <= 4
                else:
                    assert again.first >= now - 8
