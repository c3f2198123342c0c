"""Durations, sizes, addresses, networks and statuses as a configuration file has them."""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1, "b": 1,
    "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10,
    "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
    "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30,
}  # fmt: skip
# A century, in seconds: far past any use, and far below where a deadline stops being exact.
MAX_DURATION = 36_500 * 86_400.0
_MAX_UNIX_PATH = 107  # sockaddr_un.sun_path of Linux, without its NUL
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:us|ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d{1,18}) ?([a-z]*)", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_DOTTED_NUMBERS = re.compile(r"[\d.]+", re.ASCII)
_STATUS_RANGE = re.compile(r"([1-5])xx|([1-5]\d\d)-([1-5]\d\d)", re.ASCII)
_LABEL = r"[A-Za-z0-9_-]{1,63}"  # RFC 1035 section 2.3.4
_HOST_NAME = re.compile(rf"(?!-){_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)


def parse_duration(value: object) -> float:
    """`"5s"`, `"1h30m"`, `"250ms"`, or a plain number of seconds -> seconds.

    Raises ValueError with what is allowed.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value <= MAX_DURATION:
            return float(value)
    elif isinstance(value, str) and _DURATION.fullmatch(text := value.strip().lower()):
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(text))
        if seconds <= MAX_DURATION:
            return seconds
        raise ValueError('write at most "36500d" (100 years)')
    raise ValueError('write a duration such as "250ms", "5s", "10m" or "1h30m"')


def parse_size(value: object) -> int:
    """`"64KiB"`, `"1m"`, or a plain number of bytes -> bytes (k, m, g are powers of 1024).

    Raises ValueError with what is allowed.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip().lower())):
        number, unit = match.groups()
        if unit in _BYTES:
            return int(number) * _BYTES[unit]
    raise ValueError('write a size such as "16KiB", "1MiB" or a number of bytes')


class Address(NamedTuple):
    """Where to listen or to connect: a host name or IP address, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_literal(self) -> bool:
        """True for an IP address, false for a name that has to be looked up."""
        return _is_ip(self.host, 4) or _is_ip(self.host, 6)

    def as_destination(self) -> Address:
        """The address at which a client on this machine reaches a listener: loopback for all
        interfaces."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)


class UnixAddress(NamedTuple):
    """A socket in the file system, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse_address(value: object) -> Address:
    """`"10.0.1.10:8000"`, `"[2001:db8::1]:8000"`, `"worker.local:8000"`; `*` is all interfaces.

    Raises ValueError with what is allowed.
    """
    if isinstance(value, Address):
        return value
    if isinstance(value, str):
        host, colon, port = value.strip().rpartition(":")
        if colon and _PORT.fullmatch(port) and int(port) <= 65535:
            if host in ("", "*"):
                return Address("0.0.0.0", int(port))
            if host.startswith("[") and host.endswith("]") and _is_ip(host[1:-1], 6):
                return Address(host[1:-1], int(port))
            # "10.0.1.300" has the form of a host name, which no resolver would find.
            if _HOST_NAME.fullmatch(host) and (
                not _DOTTED_NUMBERS.fullmatch(host) or _is_ip(host, 4)
            ):
                return Address(host, int(port))
    raise ValueError(
        'write "host:port" with a port from 0 to 65535, such as "10.0.1.10:8000" or "[::1]:8000"'
    )


def parse_endpoint(value: object) -> Address | UnixAddress:
    """An address as `parse_address` has it, or `"unix:/run/name.sock"` (nginx's form).

    Raises ValueError with what is allowed.
    """
    if isinstance(value, UnixAddress):
        return value
    if not isinstance(value, str) or not value.strip().startswith("unix:"):
        return parse_address(value)
    path = value.strip().removeprefix("unix:")
    if not path.startswith("/") or "\0" in path:
        raise ValueError('write a socket with its whole path, such as "unix:/run/name.sock"')
    if len(path.encode()) > _MAX_UNIX_PATH:
        raise ValueError(f"the path of a socket has {_MAX_UNIX_PATH} bytes at most")
    return UnixAddress(path)


def parse_server_name(value: object) -> str:
    """A name that a certificate may have: a host name or an IP address. Raises ValueError."""
    if isinstance(value, str) and (_HOST_NAME.fullmatch(value) or _is_ip(value, 6)):
        return value.rstrip(".")  # of no certificate's name (RFC 6066 section 3)
    raise ValueError('write a host name such as "agents.internal"')


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """`"10.0.0.0/8"`, `"2001:db8::/32"`, or one address such as `"192.0.2.7"` -> a network.

    Raises ValueError with what is allowed.
    """
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if isinstance(value, str):
        try:
            return ipaddress.ip_network(value.strip())
        except ValueError:
            pass
        try:
            meant = ipaddress.ip_network(value.strip(), strict=False)
        except ValueError:
            pass
        else:
            raise ValueError(f'the address has bits after the prefix: write "{meant}"')
    raise ValueError('write a network such as "10.0.0.0/8", or an address such as "192.0.2.7"')


def status_range(status: object) -> tuple[int, int]:
    """`200`, `"2xx"`, `"200-399"` -> the inclusive range of codes. Raises ValueError."""
    if isinstance(status, int) and 100 <= status <= 599:
        return status, status
    if isinstance(status, str):
        if re.fullmatch(r"[1-5]\d\d", status, re.ASCII):
            return int(status), int(status)
        if match := _STATUS_RANGE.fullmatch(status):
            hundreds, low, high = match.groups()
            if hundreds:
                return int(hundreds) * 100, int(hundreds) * 100 + 99
            if low <= high:
                return int(low), int(high)
    raise ValueError('write a status from 100 to 599, such as 200, "2xx" or "200-399"')


def format_duration(seconds: float) -> str:
    """Seconds -> the shortest way to write them with one unit: 600.0 -> `"10m"`."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def format_size(size: int) -> str:
    """Bytes -> the shortest way to write them: 65536 -> `"64KiB"`."""
    for unit in ("GiB", "MiB", "KiB"):
        count, rest = divmod(size, _BYTES[unit.lower()])
        if count and not rest:
            return f"{count}{unit}"
    return str(size)


def is_loopback(host: str) -> bool:
    """Whether `host` is `localhost` or a loopback address. Other names are not looked up: False."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _known_status(status: object) -> object:
    status_range(status)
    return status


def _like(*examples: str | int, kind: Any = "string") -> WithJsonSchema:
    return WithJsonSchema({"type": kind, "examples": list(examples)})


_DURATION_SCHEMA = {"type": ["string", "number"], "examples": ["250ms", "5s", "10m", "1h30m"]}
Duration = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema(_DURATION_SCHEMA)]
PositiveDuration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0),
    # The bound is repeated: pydantic adds none to a JSON Schema that is given by hand.
    WithJsonSchema({**_DURATION_SCHEMA, "exclusiveMinimum": 0}),
]
Size = Annotated[
    int, BeforeValidator(parse_size), _like("16KiB", "1MiB", kind=["string", "integer"])
]
HostPort = Annotated[
    Address,
    BeforeValidator(parse_address),
    PlainSerializer(str),
    _like("0.0.0.0:8080", "[::1]:8000"),
]
Endpoint = Annotated[
    Address | UnixAddress,
    PlainValidator(parse_endpoint),
    PlainSerializer(str),
    _like("0.0.0.0:8080", "[::1]:8000", "unix:/run/name.sock"),
]
ServerName = Annotated[str, BeforeValidator(parse_server_name), _like("agents.internal")]
Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(parse_network),
    _like("10.0.0.0/8", "2001:db8::/32"),
]
Status = Annotated[
    int | str,
    BeforeValidator(_known_status),
    _like(200, "2xx", "200-399", kind=["string", "integer"]),
]
