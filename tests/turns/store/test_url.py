"""`[store].url`."""

from __future__ import annotations

import pytest

from hermes_lb.turns.store.url import StoreUrl, identity, read_url


def shown(url: StoreUrl) -> tuple[object, ...]:
    user, password, db, tls = url.server
    return (url.topology, url.addresses, user, password, db, bool(tls), url.master_name)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", ("", (("h", 6379),), "", "", 0, False, "")),
        ("valkey://h:1/2", ("", (("h", 1),), "", "", 2, False, "")),
        ("redis://[::1]:7", ("", (("::1", 7),), "", "", 0, False, "")),
        ("rediss://u:p%40@h", ("", (("h", 6379),), "u", "p@", 0, True, "")),
        ("redis://h?password=x&db=3", ("", (("h", 6379),), "", "x", 3, False, "")),
        ("unix:///a/b?db=1", ("", (("/a/b", 0),), "", "", 1, False, "")),
        (
            "redis+sentinel://:p@a,b:2/main/1",
            ("sentinel", (("a", 26379), ("b", 2)), "", "p", 1, False, "main"),
        ),
        ("redis+cluster://a,b:2", ("cluster", (("a", 6379), ("b", 2)), "", "", 0, False, "")),
    ],
)
def test_urls(url: str, expected: tuple[object, ...]) -> None:
    assert shown(read_url(url)) == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h", "http://"),
        ("redis+other://h", "does not begin"),
        ("redis://:secret/x@h:1", "percent-encode"),
        ("redis://h/one", "db in a store's URL"),
        ("redis://h?socket_timeout=1", "unknown option of a store's URL: socket_timeout"),
        ("redis://h?sentinel_password=1", "sentinel_password"),
        ("redis+sentinel://h", "names no master"),
        ("redis+cluster://h,", "before each comma"),
        ("redis+cluster://h/1", "database 0"),
        ("redis://h?min_replicas=-1", "min_replicas"),
        ("rediss://h?ssl_ca_certs=/nowhere", "TLS files"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        read_url(url)
    assert "secret" not in str(raised.value)


def test_sentinels_have_credentials_of_their_own() -> None:
    url = read_url("redis+sentinel://u:p@h/m?sentinel_password=s")
    assert url.sentinel == ("", "s", 0, None)
    assert url.min_replicas == 1
    assert read_url("redis+sentinel://h/m?min_replicas=0").min_replicas == 0
    assert read_url("redis://h").min_replicas == 0


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ("redis+sentinel://h:1,i/m?min_replicas=2", True),
        ("redis+sentinel://v:q%40@h:1,i/m?min_replicas=2&sentinel_password=t", True),
        ("redis+sentinel://h:1,i/m?username=v&min_replicas=2&password=q", True),
        ("redis+sentinel://u:p@h:1,i/m", False),
        ("redis+sentinel://u:p@h:1/m?min_replicas=2", False),
        ("redis+sentinel://u:p@h:1,i/n?min_replicas=2", False),
        ("rediss+sentinel://u:p@h:1,i/m?min_replicas=2", False),
        ("redis+cluster://u:p@h:1,i?min_replicas=2", False),
    ],
)
def test_which_store_it_is(other: str, is_same: bool) -> None:
    given = "redis+sentinel://u:p@h:1,i/m?min_replicas=2&sentinel_password=s"
    assert (identity(given) == identity(other)) is is_same
    assert "s" not in identity("redis://u:s@h").partition("://")[2]
