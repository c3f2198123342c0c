"""A client of the admin API. Uses the standard library only, for a fast start."""

from __future__ import annotations

import json
import ssl
import time
from fnmatch import fnmatchcase
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from hermes_lb.ctl.errors import CtlError
from hermes_lb.errors import reason
from hermes_lb.options.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Keys that an answer has at least; without them something else listens there.
_SERVER = ("backend", "name", "state", "admin")
_KEYS = {
    "status": ("version", "backends", "frontends", "processes"),
    "servers": _SERVER,
    "sessions": ("total", "sessions"),
    "recent": ("number", "termination"),
    "changes": ("number", "state"),
    "errors": ("where", "count", "because"),
    "resolvers": ("backend", "host"),
    "config": ("key", "value", "origin"),
    "turns": ("turns",),
    "reload": ("changes",),
    "upgrade": ("status",),
}
_MOMENT = ("time", "status", "servers")
_PATTERN = frozenset("*?[")
_EVENTS = "text/event-stream"
_MOST_ROWS = 1000  # sessions in an answer

# Seconds. A live stream has an event each second.
_PATIENCE = 30.0
# For slow commands: the new code has 60 s to check the configuration, after a reload in progress;
# in a reload a worker has 30 s to apply it, and is replaced if it can't, which takes up to 60 s.
# Clearing the pins in stores takes up to 60 s (`control.shared_pins`).
_TAKES = {"reload": 120.0, "upgrade": 120.0, "pins": 90.0}
# Seconds between the end of a live stream, as by an upgrade, and the next one.
_PAUSE = 0.2


class AdminClient:
    """A client of one admin listener, with a connection per request.

    `ca` is a PEM file of certificate authorities to trust as well.
    """

    def __init__(self, url: str, token: str | None = None, ca: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise CtlError(f"{url!r} is not a URL: write http://HOST:PORT or https://HOST:PORT")
        self.url = url.rstrip("/")
        self._scheme, self._host, self._token = parts.scheme, parts.hostname, token
        try:
            self._port = parts.port
        except ValueError:
            raise CtlError(f"{url!r} has no valid port: write one from 1 to 65535") from None
        self._tls = self._trusting(ca) if parts.scheme == "https" else None

    def get(self, path: str) -> Any:
        """GET /api/v1/`path`. Raises CtlError."""
        return self.send("GET", path)

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request -> the JSON of the response. Raises CtlError with its message."""
        return self._send(method, path, body, _KEYS[path.partition("?")[0]])

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None, keys: tuple[str, ...]
    ) -> Any:
        patience = _TAKES.get(path.partition("?")[0], _PATIENCE)
        connection = self._connection(patience)
        try:
            response = self._ask(connection, method, path, body)
            return self._known(self._json(response, patience), keys)
        finally:
            connection.close()

    def _known(self, answer: Any, keys: tuple[str, ...]) -> Any:
        """Check that an answer, an object or a list of them, has these keys. Raises CtlError."""
        for one in answer if isinstance(answer, list) else [answer]:
            if not isinstance(one, dict) or not one.keys() >= set(keys):
                raise self._not_an_admin_listener()
        return answer

    def find(self, name: str, *, is_busy: bool = False) -> dict[str, Any]:
        """The server `BACKEND/SERVER`, or `SERVER` if the name is unique. Raises CtlError.

        With `is_busy` also one that a reload has removed and that still serves, with "backend" and
        "name" only.
        """
        servers = self.get("servers")
        if is_busy:
            servers += self._removed(map(_full, servers))
        return dict(self._named(servers, name))

    def find_all(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """The servers of these names and patterns, as `chosen`. Raises CtlError."""
        servers: list[dict[str, Any]] = self.get("servers")
        return self.chosen(servers, names)

    def chosen(self, servers: list[dict[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
        """Those of `servers` that are meant, in their order. Raises CtlError for a wrong name."""
        wanted: list[dict[str, Any]] = []
        for name in names:
            if _PATTERN.isdisjoint(name):
                wanted.append(self._named(servers, name))
                continue
            shown = _full if "/" in name else itemgetter("name")
            matching = [server for server in servers if fnmatchcase(shown(server), name)]
            if not matching:
                raise CtlError(f"no server matches {name!r}")
            wanted += matching
        return [server for server in servers if server in wanted]

    def _named(self, servers: list[dict[str, Any]], name: str) -> dict[str, Any]:
        found = [s for s in servers if name in (s["name"], _full(s))]
        if len(found) == 1:
            return found[0]
        if found:
            names = " or ".join(map(_full, found))
            raise CtlError(f"several servers are called {name}: write {names}")
        near = did_you_mean(name, [known for s in servers for known in (s["name"], _full(s))])
        all_names = ", ".join(s["name"] for s in servers)
        hint = f"did you mean {near}?" if near else f"there are {all_names}"
        raise CtlError(f"there is no server {name!r}; {hint}")

    def _removed(self, known: Iterable[str]) -> list[dict[str, Any]]:
        rows = self.get(f"sessions?limit={_MOST_ROWS}")["sessions"]
        serving = {(row["backend"], row["server"]) for row in rows if row["server"] is not None}
        all_names = set(known)
        servers = [{"backend": backend, "name": name} for backend, name in sorted(serving)]
        return [server for server in servers if _full(server) not in all_names]

    def look_at(self, server: dict[str, Any]) -> dict[str, Any]:
        """The server's present state; "removed", with its requests, after such a reload."""
        try:
            return dict(self._send("GET", _path(server), None, _SERVER))
        except CtlError as error:
            if error.status != 404:
                raise
        left = self.running_on(server)
        return {**server, "state": "removed", "because": "", "in_flight": left, "queued": 0}

    def running_on(self, server: dict[str, Any]) -> int:
        """Count the requests on it, by name, by asking all processes.

        Its counter is late if a process stood still, and lacks requests from before a reload that
        removed it if another one has added it again.
        """
        named = urlencode({"backend": server["backend"], "server": server["name"]})
        return int(self.get(f"sessions?limit=0&{named}")["total"])

    def change(self, server: dict[str, Any], what: str, value: Any) -> dict[str, Any]:
        """Set its "state", "weight", "health" or "options" -> the changed server."""
        return dict(self._send("PUT", f"{_path(server)}/{what}", {what: value}, _SERVER))

    def add_server(self, backend: str, body: dict[str, Any]) -> dict[str, Any]:
        """Add it -> the server."""
        return dict(self._send("POST", f"servers/{quote(backend, safe='')}", body, _SERVER))

    def remove_server(self, server: dict[str, Any]) -> dict[str, Any]:
        return dict(self._send("DELETE", _path(server), None, ("changes",)))

    def kill_session(self, session: str) -> dict[str, Any]:
        """Cut one request."""
        return dict(self._send("DELETE", f"sessions/{quote(session, safe='')}", None, ("ended",)))

    def pins(self, **which: Any) -> dict[str, Any]:
        return dict(self._send("GET", f"pins?{_query(which)}", None, ("total", "pins")))

    def clear_pins(self, **which: Any) -> int:
        """Forget those that fit -> their number."""
        return int(self._send("DELETE", f"pins?{_query(which)}", None, ("cleared",))["cleared"])

    def clear_counters(self) -> dict[str, Any]:
        return dict(self._send("DELETE", "counters", None, ("cleared",)))

    def end_sessions(self, server: dict[str, Any]) -> int:
        """Cut its requests -> their number."""
        answer = self._send("DELETE", f"{_path(server)}/sessions", None, ("ended",))
        return int(answer["ended"])

    def cancel_turn(self, turn: str) -> int:
        """Ask for its cancellation -> the number of turns that it names."""
        answer = self._send("DELETE", f"turns/{quote(turn, safe='')}", None, ("cancelled",))
        return int(answer["cancelled"])

    def purge_turns(self, principal: str) -> int:
        """Delete all turns of a principal -> their number."""
        named = urlencode({"principal": principal})
        return int(self._send("DELETE", f"turns?{named}", None, ("purged",))["purged"])

    def events(self) -> Iterator[dict[str, Any]]:
        """Moments of the live stream, one a second.

        An upgrade ends the stream, which is then opened again. Raises CtlError if it can't be.
        """
        ended = CtlError(f"{self.url} has ended: the balancer stopped")
        is_first, has_spoken = True, True
        while has_spoken:
            connection = self._connection(_PATIENCE)
            try:
                response = self._ask(connection, "GET", "events", None)
            except CtlError as error:
                connection.close()
                raise (error if is_first else ended) from None
            is_first = has_spoken = False
            try:
                for moment in self._moments(response):
                    has_spoken = True
                    yield moment
            finally:
                connection.close()
            time.sleep(_PAUSE)
        raise ended

    def _moments(self, response: HTTPResponse) -> Iterator[dict[str, Any]]:
        with response:
            if response.status != 200 or response.headers.get_content_type() != _EVENTS:
                self._json(response, _PATIENCE)
                raise self._not_an_admin_listener()
            servers: dict[str, Any] = {}
            while line := self._line(response):
                if line.startswith(b"data: "):
                    yield _merged(self._known(self._parsed(line[6:]), _MOMENT), servers)

    def _parsed(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise self._not_an_admin_listener() from None

    def _line(self, response: HTTPResponse) -> bytes:
        try:
            return response.readline()
        except TimeoutError:
            raise self._silent(_PATIENCE) from None
        except (OSError, HTTPException):
            return b""

    def _connection(self, patience: float) -> HTTPConnection:
        if self._tls is not None:
            return HTTPSConnection(self._host, self._port, timeout=patience, context=self._tls)
        return HTTPConnection(self._host, self._port, timeout=patience)

    def _trusting(self, ca: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        # A self-signed certificate, or the listener's own, may be given as authority.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if ca is not None:
            try:
                context.load_verify_locations(ca)
            except OSError as error:  # ssl.SSLError is one
                raise CtlError(f"can't use {ca} as authority: {reason(error)}") from None
        return context

    def _ask(
        self, connection: HTTPConnection, method: str, path: str, body: dict[str, Any] | None
    ) -> HTTPResponse:
        headers = {"Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if method != "GET":
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, f"/api/v1/{path}", json.dumps(body or {}), headers)
            return connection.getresponse()
        except ConnectionRefusedError:
            raise CtlError(
                f"nothing answers at {self.url}: is hermes-lb running, with its admin listener "
                "there? Give its address by --url or --config"
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise CtlError(
                f"the certificate of {self.url} is not trusted: {error.verify_message}; "
                "give its authority by --ca FILE"
            ) from None
        except TimeoutError:
            raise self._silent(connection.timeout) from None
        except (HTTPException, ssl.SSLError, ConnectionResetError):
            raise self._not_an_admin_listener() from None
        except OSError as error:
            raise CtlError(f"can't reach {self.url}: {reason(error)}") from None
        except ValueError:  # a header that can't be sent
            raise CtlError("the token has characters that a header can't have") from None

    def _json(self, response: HTTPResponse, patience: float) -> Any:
        try:
            answer = json.loads(response.read())
            if response.status < 300:
                return answer
            error = answer["error"]
            message, problems = str(error["message"]), error.get("problems")
        except TimeoutError:
            raise self._silent(patience) from None
        except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError):
            raise self._not_an_admin_listener() from None
        if response.status == 401:
            problem = "this is not its token" if self._token else "a token is needed"
            raise CtlError(
                f"{self.url}: {problem}; give it by --token, HERMES_LB_ADMIN_TOKEN or the "
                "balancer's --config"
            )
        raise CtlError(message, problems, response.status)

    def _silent(self, patience: float | None) -> CtlError:
        return CtlError(f"{self.url} did not answer within {patience:g} s")

    def _not_an_admin_listener(self) -> CtlError:
        hint = " (or it uses TLS: write https://)" if self._scheme == "http" else ""
        return CtlError(f"what answers at {self.url} is no admin listener of hermes-lb{hint}")


def _merged(moment: dict[str, Any], servers: dict[str, Any]) -> dict[str, Any]:
    """With all servers: an event has only those that differ from the event before.

    `servers` are those so far. Older balancers send all of them each time.
    """
    if moment.get("is_whole", True):
        servers.clear()
    servers.update((_full(server), server) for server in moment["servers"])
    for name in moment.get("gone", ()):
        servers.pop(name, None)
    return {**moment, "servers": list(servers.values())}


def _query(which: dict[str, Any]) -> str:
    return urlencode({key: value for key, value in which.items() if value is not None})


def _path(server: dict[str, Any]) -> str:
    backend, name = (quote(server[key], safe="") for key in ("backend", "name"))
    return f"servers/{backend}/{name}"


def _full(server: dict[str, Any]) -> str:
    return f"{server['backend']}/{server['name']}"
