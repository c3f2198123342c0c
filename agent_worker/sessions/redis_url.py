"""Parses a Redis URL: one server, the master of a group of Sentinels, or a Cluster.

    redis://[user:pass@]host[:6379][/db]        rediss://... with TLS
    unix:///path[?db=0]
    redis+sentinel://[user:pass@]host[:26379],host2/<master name>[/db][?sentinel_password=...]
    redis+cluster://[user:pass@]host[:6379],host2
                                                rediss+sentinel://, rediss+cluster:// with TLS

Options are redis-py's own (`?ssl_ca_certs=ca.pem&socket_timeout=5`), and `min_replicas`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = tuple[str, int]

_REDIS_PORT = 6379
_SENTINEL_PORT = 26379
_FORMS = ("redis", "rediss", "unix")
_TOPOLOGIES = ("", "sentinel", "cluster")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

# Appended instead of quoting a value that may be a part of a password.
_IN_A_PASSWORD = "(in a password, percent-encode the characters / ? # @)"

# Settings that the URL may override. An operation takes about 0.2 ms, so 64 connections to a server
# serve thousands of turns.
_DEFAULTS: Mapping[str, Any] = {
    "max_connections": 64,
    # Seconds to wait for a free connection.
    "timeout": 2.0,
    "socket_timeout": 2.0,
    "socket_connect_timeout": 2.0,
    "health_check_interval": 20,
}
# Settings of the pool, not of a connection.
_OF_THE_POOL = ("max_connections", "timeout")
# Made once: redis-py reads its version from its package's metadata, which takes a millisecond.
_DRIVER = DriverInfo()


@dataclass(frozen=True, slots=True)
class RedisUrl:
    #: "" (one server), "sentinel" or "cluster".
    topology: str
    #: The servers, Sentinels or Cluster nodes of the URL; none for a Unix socket.
    addresses: tuple[Address, ...]
    #: Settings of a connection pool, by redis-py's names; without the address.
    settings: Mapping[str, Any] = field(repr=False)
    sentinel_settings: Mapping[str, Any] = field(repr=False)
    master_name: str
    #: None if the URL does not set it.
    min_replicas: int | None


def read_url(url: str) -> RedisUrl:
    """Raises ValueError with a message for the user that contains no password."""
    parts = urlsplit(url)
    form, _, topology = parts.scheme.partition("+")
    if form not in _FORMS or topology not in _TOPOLOGIES or (topology and form == "unix"):
        raise ValueError(
            "a Redis URL begins with redis://, rediss://, unix://, redis+sentinel:// or "
            f"redis+cluster://{f', not with {parts.scheme}://' if parts.scheme else ''}"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    min_replicas = _count(options.pop("min_replicas", None))
    sentinel = {
        name: options.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if topology == "sentinel" and f"sentinel_{name}" in options
    }
    userinfo, addresses = _addresses(parts, topology)
    master_name, db = _path(parts, topology)
    # redis-py parses credentials, db and options, in the one form that it knows.
    base = SplitResult(form, f"{userinfo}host", db, urlencode(options), "")
    if form == "unix":
        base = parts._replace(query=urlencode(options))
    settings = _settings(base)
    if topology == "cluster" and settings.get("db"):
        raise ValueError("a Redis Cluster has database 0 only")
    own = ("username", "password", "db")
    shared = {name: value for name, value in settings.items() if name not in own}
    return RedisUrl(topology, addresses, settings, shared | sentinel, master_name, min_replicas)


def shown_url(url: str) -> str:
    """`url` without its passwords, for messages and logs."""
    parts = urlsplit(url)
    userinfo, at, _ = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    options = [
        f"{name}{is_}{'***' if 'password' in name and value else value}"
        for name, is_, value in (option.partition("=") for option in parts.query.split("&"))
    ]
    shown = url.replace(f"?{parts.query}", f"?{'&'.join(options)}")
    return shown.replace(f"//{userinfo}{at}", f"//{user}:***{at}", 1) if colon else shown


def _path(parts: SplitResult, topology: str) -> tuple[str, str]:
    """The name of the master at the Sentinels, and the database as a path ("" or "/1")."""
    if parts.scheme == "unix":
        return "", ""
    words = [unquote(word) for word in parts.path.split("/")[1:]]
    name = ""
    if topology == "sentinel":
        name = words.pop(0) if words else ""
        if not name:
            raise ValueError(
                "the URL names no master: redis+sentinel://host:26379,host2:26379/<master name>"
            )
    db = "/".join(words)
    if db and not (db.isascii() and db.isdigit()):
        raise ValueError(f"the database in a Redis URL is a number {_IN_A_PASSWORD}")
    return name, f"/{db}" if db else ""


def _addresses(parts: SplitResult, topology: str) -> tuple[str, tuple[Address, ...]]:
    """The credentials ("user:pass@" or ""), and every host with its port."""
    userinfo, at, hosts = parts.netloc.rpartition("@")
    if parts.scheme == "unix":
        return userinfo + at, ()
    default = _SENTINEL_PORT if topology == "sentinel" else _REDIS_PORT
    addresses = []
    for host in hosts.split(",") if topology else [hosts]:
        one = urlsplit(f"//{host}")
        try:
            port = one.port or default
        except ValueError:
            raise ValueError(
                f"the port in a Redis URL is not a number from 1 to 65535 {_IN_A_PASSWORD}"
            ) from None
        if topology and not one.hostname:
            raise ValueError("a Redis URL needs a host before each comma and after it")
        addresses.append((one.hostname or "localhost", port))
    return userinfo + at, tuple(addresses)


def _settings(base: SplitResult) -> dict[str, Any]:
    given: dict[str, Any] = dict(parse_url(urlunsplit(base)))
    for name in ("host", "port"):
        given.pop(name, None)
    for name in _FILES:
        if name in given and not Path(given[name]).is_file():
            raise ValueError(f"{name}: there is no file {given[name]}")
    settings = {"connection_class": Connection} | dict(_DEFAULTS) | given
    # Only `Client` retries: two layers would multiply. With RESP2 the replies of scripts have the
    # same shape on every server.
    settings |= {"retry": Retry(NoBackoff(), 0), "decode_responses": True, "protocol": 2}
    settings["driver_info"] = _DRIVER
    _try_out(settings)
    return settings


def _try_out(settings: Mapping[str, Any]) -> None:
    """redis-py detects an unknown option only when it makes a connection; this one is not used."""
    outer = ("connection_class", *_OF_THE_POOL)
    try:
        settings["connection_class"](**{k: v for k, v in settings.items() if k not in outer})
    except TypeError as error:
        raise ValueError(f"unknown option in the Redis URL ({error})") from None


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"min_replicas in a Redis URL is a number from 0, not {text!r}")
    return int(text)
