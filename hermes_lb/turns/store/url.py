"""`[store].url`: one server, the master of a group of Sentinels, or a Cluster.

    redis://[user:pass@]host[:6379][/db]        rediss://... with TLS
    unix:///path[?db=0]
    redis+sentinel://[user:pass@]host[:26379],host2/<master name>[/db][?sentinel_password=...]
    redis+cluster://[user:pass@]host[:6379],host2
                                                rediss+sentinel://, rediss+cluster:// with TLS

"valkey" may stand for "redis". Options have redis-py's names: db, username, password,
sentinel_username, sentinel_password, ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_check_hostname,
ssl_cert_reqs (required or none); and min_replicas, the number of replicas that must have a keyed
turn before it is sent (default: 1 with Sentinels or a Cluster, 0 else).
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A host and its port, or the path of a Unix socket and 0.
Address = tuple[str, int]

_PORT: Final = {"": 6379, "sentinel": 26379, "cluster": 6379}
_TLS_OPTIONS: Final = frozenset(
    ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs")
)
_USER_OPTIONS: Final = frozenset(("username", "password"))
_SENTINEL_OPTIONS: Final = frozenset(("sentinel_username", "sentinel_password"))
_OPTIONS: Final = _TLS_OPTIONS | _USER_OPTIONS | {"db", "min_replicas"}
_LOGIN_OPTIONS: Final = _TLS_OPTIONS | _USER_OPTIONS | _SENTINEL_OPTIONS
_IS_NO_NUMBER: Final = "in a store's URL is no number (percent-encode / ? # @ in a password)"


class Credentials(NamedTuple):
    """How a connection begins. `username`: empty for the default user."""

    username: str
    password: str
    db: int
    tls: ssl.SSLContext | None


class StoreUrl(NamedTuple):
    """A URL that has been read. `topology`: "", "sentinel" or "cluster".

    `addresses` are those of the server, of the Sentinels, or of some nodes of the Cluster.
    """

    topology: str
    addresses: tuple[Address, ...]
    server: Credentials
    sentinel: Credentials
    master_name: str
    min_replicas: int


def read_url(url: str) -> StoreUrl:
    """Raises ValueError, whose text has no password."""
    parts = urlsplit(url)
    scheme, _, topology = parts.scheme.partition("+")
    is_unix = scheme == "unix"
    if scheme not in ("redis", "rediss", "valkey", "valkeys", "unix") or topology not in _PORT:
        raise ValueError(f"a store's URL does not begin with {parts.scheme}://")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = _OPTIONS | _SENTINEL_OPTIONS if topology == "sentinel" else _OPTIONS
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown option of a store's URL: {', '.join(unknown)}")
    master_name, db = ("", options.get("db", "")) if is_unix else _path(parts, topology, options)
    if topology == "cluster" and _count("db", db):
        raise ValueError("a Cluster has database 0 only")
    user, password = _user(parts, options)
    tls = _tls(options) if scheme in ("rediss", "valkeys") else None
    server = Credentials(user, password, _count("db", db), tls)
    sentinel_user = options.get("sentinel_username", "")
    sentinel_password = options.get("sentinel_password", "")
    replicas = options.get("min_replicas", "1" if topology else "0")
    return StoreUrl(
        topology,
        ((parts.path, 0),) if is_unix else _addresses(parts, topology),
        server,
        Credentials(sentinel_user, sentinel_password, 0, tls),
        master_name,
        _count("min_replicas", replicas),
    )


def identity(url: str) -> str:
    """The URL without what says how to log in: the user, the password, files of TLS."""
    parts = urlsplit(url)
    options = [each for each in parse_qsl(parts.query) if each[0] not in _LOGIN_OPTIONS]
    hosts = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=hosts, query=urlencode(sorted(options))).geturl()


def _user(parts: SplitResult, options: Mapping[str, str]) -> tuple[str, str]:
    userinfo = parts.netloc.rpartition("@")[0]
    user, _, password = userinfo.partition(":")
    return options.get("username", unquote(user)), options.get("password", unquote(password))


def _path(parts: SplitResult, topology: str, options: Mapping[str, str]) -> tuple[str, str]:
    """The name of the master at the Sentinels, and the database."""
    words = [unquote(word) for word in parts.path.split("/")[1:]]
    name = ""
    if topology == "sentinel":
        name = words.pop(0) if words else ""
        if not name:
            raise ValueError("the store's URL names no master: redis+sentinel://host,host2/NAME")
    return name, "/".join(words) or options.get("db", "")


def _addresses(parts: SplitResult, topology: str) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2]
    found = []
    for host in hosts.split(",") if topology else [hosts]:
        one = urlsplit(f"//{host}")
        try:
            port = one.port or _PORT[topology]
        except ValueError:
            raise ValueError(f"the port {_IS_NO_NUMBER}") from None
        if topology and not one.hostname:
            raise ValueError("a store's URL needs a host before each comma and after it")
        found.append((one.hostname or "localhost", port))
    return tuple(found)


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise ValueError(f"TLS files of the store's URL: {error}") from None
    is_checked = options.get("ssl_cert_reqs", "required") != "none"
    names = options.get("ssl_check_hostname", "true").lower() not in ("false", "no", "0")
    context.check_hostname = is_checked and names
    context.verify_mode = ssl.CERT_REQUIRED if is_checked else ssl.CERT_NONE
    return context


def _count(name: str, text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name} {_IS_NO_NUMBER}")
    return int(text or 0)
