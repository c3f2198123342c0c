"""Session keys: a key in the request decides the server. Pure.

The first source whose key is in the request counts. A rule that hashes finds the same server on
every balancer; one that learns finds the server whose response has named the key (`table`). All
rules share the table: the id that one source has learned is found by each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from hermes_lb.affinity.bodies import BodyReader, EventReader, JsonReader, PacketReader
from hermes_lb.http.json_keys import Pointer, has_json, is_json, json_of_request, media_type
from hermes_lb.http.keys import MOST_IN_KEY, STICK_ON, STICK_RESPONSE, key_finder, location_finder
from hermes_lb.options.patterns import COOKIE_NAME
from hermes_lb.options.section import Section, as_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hermes_lb.http import ResponseHead
    from hermes_lb.http.keys import FindKey

_READERS = {"json": JsonReader, "event": EventReader, "engineio": PacketReader}
_LOCATIONS = frozenset((b"location", b"content-location"))


def _one_or_several(pattern: str) -> Any:
    """A list of such sources; one alone is written, and shown, without the brackets."""
    source = Annotated[str, Field(pattern=pattern)]
    return Annotated[
        list[source],
        BeforeValidator(as_list, json_schema_input_type=list[source] | source),
        AfterValidator(lambda sources: sources[0] if len(sources) == 1 else sources),
        PlainSerializer(lambda sources: sources),
    ]


if TYPE_CHECKING:
    Sources = str | list[str]
    ResponseSources = str | list[str]
else:
    Sources, ResponseSources = _one_or_several(STICK_ON), _one_or_several(STICK_RESPONSE)


class KeyOptions(Section):
    """`[[backends.NAME.stick]]`: HAProxy's `stick on`, `stick store-response`."""

    on: Sources = Field(min_length=1)
    learn: bool = False
    response: ResponseSources | None = None
    response_header: str | None = Field(None, pattern=COOKIE_NAME)
    on_lost: Literal["prefer", "strict", "404"] = "prefer"

    @model_validator(mode="after")
    def _learns_from_responses(self) -> Self:
        if self.response and not self.learn:
            raise ValueError("response needs learn = true")
        if self.response and self.response_header:
            raise ValueError('response_header is response = "header:NAME": give one of them')
        return self

    @property
    def sources(self) -> list[str]:
        """Where a request has the key, in order."""
        return _listed(self.on)

    @property
    def learned_from(self) -> list[str]:
        """Where a response names the key: by default in the header where a request does."""
        if self.response_header:
            return [f"header:{self.response_header}"]
        if self.response is not None:
            return _listed(self.response)
        return [source for source in self.sources if _kind(source) == "header"]

    @property
    def header_keys(self) -> list[str]:
        """Names of the header fields that the rule depends on."""
        sources = [*self.sources, *self.learned_from]
        return [_name(source) for source in sources if _kind(source) == "header"]


def _listed(sources: str | list[str]) -> list[str]:
    return [sources] if isinstance(sources, str) else sources


def _kind(source: str) -> str:
    return source.partition(":")[0]


def _name(source: str) -> str:
    return source.partition(":")[2]


class KeyRule:
    """One `[[backends.NAME.stick]]`.

    `sources`: of requests; None: the client's address. `pointers`: into the bodies of responses, by
    the kind of the source.
    """

    def __init__(self, configured: KeyOptions) -> None:
        self.learns = configured.learn
        # Ids that are born in responses are learned from these alone: a JSON-RPC server that does
        # not know one says so with the status 200.
        self.learns_asked = configured.learn and configured.response is None
        self.is_strict = configured.on_lost != "prefer"
        self.ends_with_server = configured.on_lost == "404"
        self.sources = [_source(source) for source in configured.sources]
        learned_from: dict[str, list[str]] = {}
        for source in configured.learned_from:
            learned_from.setdefault(_kind(source), []).append(_name(source))
        self._fields = [name.lower().encode() for name in learned_from.get("header", ())]
        self._locations = [location_finder(path) for path in learned_from.get("location", ())]
        self.pointers = {
            kind: [Pointer(text) for text in learned_from.get(kind, ())] for kind in _READERS
        }

    def keys_in_head(self, head: ResponseHead) -> list[bytes]:
        """The keys that the head of a response names."""
        keys = [
            next((value for name, value in head.fields() if name.lower() == wanted), b"")
            for wanted in self._fields
        ]
        if self._locations:
            values = [value for name, value in head.fields() if name.lower() in _LOCATIONS]
            keys += [find(value) for find in self._locations for value in values]
        return _usable(keys)


def _source(source: str) -> FindKey | Pointer | None:
    if source == "client":
        return None
    return Pointer(_name(source)) if _kind(source) == "json" else key_finder(source)


def _usable(keys: Iterable[bytes]) -> list[bytes]:
    return [key for key in keys if 0 < len(key) <= MOST_IN_KEY]


class SessionKey(NamedTuple):
    """A request's key, and the rule that found it."""

    rule: KeyRule
    key: bytes


class KeyRules:
    """All of one backend."""

    def __init__(self, configured: Sequence[KeyOptions]) -> None:
        self._rules = [KeyRule(rule) for rule in configured]
        self._sources = [(rule, source) for rule in self._rules for source in rule.sources]
        self.learning = [rule for rule in self._rules if rule.learns]
        self._pointers = {
            kind: [pointer for rule in self.learning for pointer in rule.pointers[kind]]
            for kind in _READERS
        }
        self._reads_responses = any(self._pointers.values())

    def find(self, request: bytes, client_address: str) -> SessionKey | None:
        """`request`: its head, and its body if that is there."""
        body, is_parsed = None, False
        for rule, source in self._sources:
            if source is None:
                key = client_address.encode()
            elif isinstance(source, Pointer):
                if not is_parsed:
                    body, is_parsed = json_of_request(request), True
                key = source.key_in(body)
            else:
                key = source(request)
            if 0 < len(key) <= MOST_IN_KEY:
                return SessionKey(rule, key)
        return None

    def needs_body(self, request_head: bytes) -> bool:
        """True if the key may be in the body, and the head has none that comes before."""
        for _, source in self._sources:
            if isinstance(source, Pointer):
                return has_json(request_head)
            if source is None or _usable([source(request_head)]):
                return False
        return False

    def learnt(self, asked: SessionKey | None, head: ResponseHead) -> list[bytes]:
        """The keys of the server that responded with `head`; `asked`: the request's own key."""
        keys = [key for rule in self.learning for key in rule.keys_in_head(head)]
        # Unknown before, or moved: a server that does not know the session responds with an error.
        if asked is not None and asked.rule.learns_asked and head.status < 400:
            keys.append(asked.key)
        return keys

    def reader(self, head: ResponseHead, *, is_chunked: bool) -> BodyReader | None:
        """What finds keys in the body of this response, which is relayed in chunks or as it is;
        None: there are none for us."""
        if not self._reads_responses or head.status >= 400:
            return None
        media = media_type(head.fields())
        if media == b"text/event-stream":
            kind = "event"
        elif media == b"text/plain":
            kind = "engineio"
        elif is_json(media):
            kind = "json"
        else:
            return None
        pointers = self._pointers[kind]
        return _READERS[kind](pointers, is_chunked=is_chunked) if pointers else None
