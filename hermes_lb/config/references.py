"""Checks across sections: names that must exist or be distinct; routes that are never reached.

They read plain tables, as TOML gives them, and skip values of a wrong shape: so their problems are
reported together with those of single values, not after these are fixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.affinity.cookie import separator
from hermes_lb.options.problems import did_you_mean, dotted, quoted
from hermes_lb.options.section import as_list
from hermes_lb.options.units import Address, UnixAddress, parse_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hermes_lb.options.problems import KeyPath

    Finding = tuple[KeyPath, str]
    Table = dict[str, Any]


ADMIN_BIND = Address("127.0.0.1", 9900)
"""Where the admin listener is, unless the configuration says otherwise."""


def check_references(config: Mapping[str, Any]) -> list[Finding]:
    """Every contradiction between the parts of a configuration: where it is, and a message."""
    frontends = list(_tables(config.get("frontends"), ("frontends",)))
    backends = config.get("backends")
    findings = [*_repeated_names(frontends, "frontend"), *_repeated_binds(config, frontends)]
    for path, frontend in frontends:
        routes = list(_tables(frontend.get("routes"), (*path, "routes")))
        findings += _unreachable_routes(routes)
        if isinstance(backends, dict):
            findings += _unknown_backend(path, frontend, "default_backend", backends)
            for route_path, route in routes:
                findings += _unknown_backend(route_path, route, "backend", backends)
                findings += _unknown_backends(route_path, route, backends)
                findings += _affinity_cookies(route_path, route, backends)
    if isinstance(backends, dict):
        for name, backend in backends.items():
            if isinstance(backend, dict):
                findings += _check_servers(("backends", name), backend)
    return findings


def _unknown_backend(path: KeyPath, table: Table, key: str, backends: Table) -> Iterator[Finding]:
    name = table.get(key)
    if isinstance(name, str) and name not in backends:
        yield (*path, key), _no_backend(name, backends)


def _unknown_backends(path: KeyPath, route: Table, backends: Table) -> Iterator[Finding]:
    """Of those that a route has weights for."""
    named = route.get("backends")
    for name in named if isinstance(named, dict) else ():
        if name not in backends:
            yield (*path, "backends", name), _no_backend(name, backends)


def _affinity_cookies(path: KeyPath, route: Table, backends: Table) -> Iterator[Finding]:
    """A cookie that a route adds would take the place of its backend's."""
    edits = route.get("response_headers")
    added = edits.get("add") if isinstance(edits, dict) else None
    if not isinstance(added, dict):
        return
    names = [route.get("backend"), *(route.get("backends") or ())]
    for field, value in added.items():
        cookie = str(value).partition("=")[0].strip()
        for name in names:
            backend = backends.get(name) if isinstance(name, str) else None
            affinity = backend.get("affinity") if isinstance(backend, dict) else None
            is_taken = isinstance(affinity, dict) and affinity.get("cookie") == cookie
            if is_taken and field.lower() == "set-cookie":
                yield (
                    (*path, "response_headers", "add"),
                    f"{quoted(cookie)} is the affinity cookie of {dotted(('backends', name))}",
                )


def _no_backend(name: str, backends: Table) -> str:
    near = did_you_mean(name, backends)
    hint = (
        f"did you mean {quoted(near)}?"
        if near
        else f"the backends are {', '.join(map(quoted, backends)) or 'not given'}"
    )
    return f"there is no backend {quoted(name)}; {hint}"


def _check_servers(path: KeyPath, backend: Table) -> Iterator[Finding]:
    servers = list(_tables(backend.get("servers"), (*path, "servers")))
    yield from _repeated_names(servers, "server")
    if servers and all(server.get("backup") is True for _, server in servers):
        yield (*path, "servers"), "every server is a backup; at least one must not be"
    affinity = backend.get("affinity")
    if not isinstance(affinity, dict):
        return
    yield from _marks_in_cookies(servers, affinity)
    owners: dict[str, tuple[KeyPath, Table]] = {}
    for server_path, server in servers:
        value = server.get("cookie") or server.get("name")
        if not isinstance(value, str):
            continue
        other_path, other = owners.setdefault(value, (server_path, server))
        # Two equal names are reported as such already.
        if other is not server and (server.get("cookie") or other.get("cookie")):
            yield (
                (*server_path, "cookie" if server.get("cookie") else "name"),
                f"{quoted(value)} is the cookie's value for {dotted(other_path)} too; "
                "it must stand for one server",
            )


def _marks_in_cookies(servers: list[tuple[KeyPath, Table]], affinity: Table) -> Iterator[Finding]:
    """A server's cookie value must not have the mark that separates it from what follows."""
    if (found := separator(affinity)) is None:
        return
    mark, why = found
    for path, server in servers:
        value = server.get("cookie")
        if isinstance(value, str) and mark in value:
            yield (*path, "cookie"), f'{quoted(value)} must have no "{mark}", which {why}'


def _repeated_names(tables: list[tuple[KeyPath, Table]], what: str) -> Iterator[Finding]:
    owners: dict[str, KeyPath] = {}
    for path, table in tables:
        name = table.get("name")
        if isinstance(name, str) and (other := owners.setdefault(name, path)) is not path:
            yield (
                (*path, "name"),
                f"{quoted(name)} is the name of {dotted(other)} too; "
                f"each {what} needs a name of its own",
            )


def _repeated_binds(
    config: Mapping[str, Any], frontends: list[tuple[KeyPath, Table]]
) -> Iterator[Finding]:
    owners: dict[Address | UnixAddress, KeyPath] = {}
    for path, address in _binds(config, frontends):
        if isinstance(address, Address) and address.port == 0:
            continue  # any free one
        other = owners.setdefault(address, path)
        if other is not path:
            yield path, f"{quoted(str(address))} is taken by {dotted(other)} already"


def _binds(
    config: Mapping[str, Any], frontends: list[tuple[KeyPath, Table]]
) -> Iterator[tuple[KeyPath, Address | UnixAddress]]:
    given: list[tuple[KeyPath, object]] = []
    admin = config.get("admin", {})
    if isinstance(admin, dict) and admin.get("enabled") is not False:
        given.append((("admin", "bind"), admin.get("bind", ADMIN_BIND)))
    for path, frontend in frontends:
        bind = frontend.get("bind")
        if isinstance(bind, list):
            given += [((*path, "bind", number), one) for number, one in enumerate(bind)]
        else:
            given.append(((*path, "bind"), bind))
    for path, value in given:
        try:
            yield path, parse_endpoint(value.get("address") if isinstance(value, dict) else value)
        except ValueError:
            continue  # reported as a wrong value


def _unreachable_routes(routes: list[tuple[KeyPath, Table]]) -> Iterator[Finding]:
    for number, (path, route) in enumerate(routes):
        for earlier_path, earlier in routes[:number]:
            if _covers(earlier, route):
                yield path, f"never reached: {dotted(earlier_path)} takes every such request first"
                break


def _covers(earlier: Table, later: Table) -> bool:
    """Whether each request that fits `later` fits `earlier` too."""
    return (
        _covers_host(earlier.get("host"), later.get("host"))
        and _covers_path(earlier, later)
        and _covers_match(earlier.get("match"), later.get("match"))
    )


def _covers_host(earlier: object, later: object) -> bool:
    if earlier is None:
        return True
    if not isinstance(earlier, str) or not isinstance(later, str):
        return False
    earlier, later = earlier.lower(), later.lower()
    return earlier == later or (earlier.startswith("*.") and later.endswith(earlier[1:]))


def _covers_path(earlier: Table, later: Table) -> bool:
    path, prefix = earlier.get("path"), earlier.get("path_prefix")
    if path is None and prefix is None:
        return True
    if path is not None:
        return bool(path == later.get("path"))
    wanted = later.get("path") or later.get("path_prefix")
    return isinstance(prefix, str) and isinstance(wanted, str) and wanted.startswith(prefix)


def _covers_match(earlier: object, later: object) -> bool:
    """False unless each condition of `earlier` follows from one of `later`."""
    if earlier is None:
        return True
    if not isinstance(earlier, dict):
        return False
    later = later if isinstance(later, dict) else {}
    return (
        _covers_words(earlier.get("method"), later.get("method"))
        and _covers_words(earlier.get("content_type"), later.get("content_type"))
        and _covers_values(earlier.get("header"), later.get("header"), str.lower)
        and _covers_values(earlier.get("query"), later.get("query"), str)
    )


def _covers_words(earlier: object, later: object) -> bool:
    """Of methods, or of media types: "text/*" covers "text/plain"."""
    mine, other = ([str(word).lower() for word in as_list(one)] for one in (earlier, later))
    return earlier is None or all(
        word in mine or f"{word.partition('/')[0]}/*" in mine for word in other
    )


def _covers_values(earlier: object, later: object, fold: Callable[[str], str]) -> bool:
    if not isinstance(earlier, dict):
        return earlier is None
    asked = {fold(name): one for name, one in later.items()} if isinstance(later, dict) else {}
    return all(_covers_value(one, asked.get(fold(name))) for name, one in earlier.items())


def _covers_value(earlier: object, later: object) -> bool:
    """Of one field or parameter; `later` None: it may have any value, or be absent."""
    mine, other = _as_table(earlier), _as_table(later)
    if mine == other:
        return bool(mine)
    if mine == {"present": True}:
        return bool(other) and other != {"present": False}
    texts, prefix = other.get("exact"), other.get("prefix")
    if isinstance(mine.get("prefix"), str):
        texts = [prefix] if isinstance(prefix, str) else texts
        return bool(texts) and all(str(text).startswith(mine["prefix"]) for text in as_list(texts))
    return bool(texts) and all(text in as_list(mine.get("exact")) for text in as_list(texts))


def _as_table(condition: object) -> Table:
    if isinstance(condition, dict):
        return {key: value for key, value in condition.items() if value is not None}
    return {} if condition is None else {"exact": as_list(condition)}


def _tables(value: object, path: KeyPath) -> Iterable[tuple[KeyPath, Table]]:
    """The tables of an array of tables, each with its place; nothing for any other value."""
    if isinstance(value, list):
        for number, table in enumerate(value):
            if isinstance(table, dict):
                yield (*path, number), table
