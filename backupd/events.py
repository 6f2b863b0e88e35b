"""Events and changes: what an AppServer says on the wire, and what the journal keeps of it.

An event is a CloudEvents 1.0 structured JSON object on the topic `backupd/v1/<server id>/<account
id>/<kind>/<item id>` (docs/events.md). `decode` turns topic and payload into a `Change`, or raises
`NotAnEvent` with a stable reason and a sentence that names what is wrong. A `Change` is one journal entry
without its sequence number; scans make them too. Levels of a topic are percent-encoded, so that ids may
hold any character.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from backupd.decoding import decoder
from backupd.errors import NotAnEvent
from backupd.items import CONTENT_KINDS, SERVER_KINDS, ItemKey, Kind, digest_of, is_digest
from backupd.states import ChangeType, Origin

TOPIC_ROOT = "backupd/v1"
EVENT_BYTES_MAX = 1 << 20
"""Default bound of an event's payload, in bytes."""
IDENTIFIER_CHARACTERS_MAX = 1024
NESTING_MAX = 64
"""How deep an event's JSON may nest: far below where readers of the journal run out of stack."""
NUMBER_MAX = (1 << 63) - 1
"""The largest sequence and size: what SQLite and other readers hold in an integer."""
FUTURE_MAX = timedelta(days=1)
_LEVEL_SAFE = "@=,:~"
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

_TYPES = {
    "mailbox.item.created": ChangeType.CREATED,
    "mailbox.item.modified": ChangeType.MODIFIED,
    "mailbox.item.moved": ChangeType.MOVED,
    "mailbox.item.deleted": ChangeType.DELETED,
    "mailbox.folder.emptied": ChangeType.EMPTIED,
    "mailbox.account.created": ChangeType.CREATED,
    "mailbox.account.modified": ChangeType.MODIFIED,
    "mailbox.account.deleted": ChangeType.DELETED,
}


class EventFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event. `metadata` is the item's whole metadata after the change, not a patch."""

    folder: str | None = None
    metadata: dict[str, Any] | None = None
    digest: str | None = None
    size: int | None = None
    body: str | None = None
    actor: dict[str, Any] | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event as it stands on the wire."""

    specversion: str
    id: str
    source: str
    type: str
    time: datetime | None = None
    subject: str | None = None
    sequence: int | None = None
    data: EventFacts = EventFacts()


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fact about one item: a journal entry without its sequence number.

    `event` identifies the event (`<source>#<id>`; empty from a scan), `also` further ones it stands for,
    `number` is the publisher's count per account. `metadata` None means that nobody has photographed the
    item yet. `body` is the content where it came along. `basis` is set by scans: the last journal sequence
    when the listing began, so that what happened since then wins. `lacking` names what could not be
    photographed because the item was gone. `since` is only of a change that waits and stands for earlier
    ones: when the first of them was made.
    """

    account: str
    kind: Kind
    item: str
    type: ChangeType
    time: datetime
    origin: Origin
    event: str = ""
    also: tuple[str, ...] = ()
    number: int | None = None
    metadata: dict[str, Any] | None = None
    digest: str | None = None
    size: int | None = None
    body: bytes | None = None
    actor: dict[str, Any] | None = None
    basis: int | None = None
    lacking: tuple[str, ...] = ()
    since: datetime | None = None

    @property
    def events(self) -> tuple[str, ...]:
        """The identifiers of all events this change stands for."""
        return (self.event, *self.also) if self.event else self.also

    @property
    def key(self) -> ItemKey:
        """The item this change is about."""
        return ItemKey(self.account, self.kind, self.item)


_event_decoder = decoder(Event)
_change_encoder = msgspec.json.Encoder()


def encode_change(change: Change) -> bytes:
    """Return a change as the JSON object that the journal keeps."""
    return _change_encoder.encode(change)


def topic_of(server_id: str, key: ItemKey) -> str:
    """Return the topic on which events of an item are published; levels are percent-encoded."""
    levels = (server_id, key.account, key.kind.value, key.item)
    return TOPIC_ROOT + "/" + "/".join(quote(level, safe=_LEVEL_SAFE) for level in levels)


def subscription_topic(server_id: str) -> str:
    """Return the topic filter under which all events of a server are published."""
    return f"{TOPIC_ROOT}/{quote(server_id, safe=_LEVEL_SAFE)}/#"


def encode_event(event: Event) -> bytes:
    """Return an event as it goes over the wire."""
    return _change_encoder.encode(event)


def event_of(change: Change, *, source: str, event_id: str) -> Event:
    """Return the event that tells a change, as a publisher sends it."""
    noun = (
        "account"
        if change.kind is Kind.ACCOUNT
        else "folder"
        if change.type is ChangeType.EMPTIED
        else "item"
    )
    return Event(
        specversion="1.0",
        id=event_id,
        source=source,
        type=f"mailbox.{noun}.{change.type.value}",
        time=change.time,
        subject=str(change.key),
        sequence=change.number,
        data=EventFacts(
            folder=(change.metadata or {}).get("folder"),
            metadata=change.metadata,
            digest=change.digest,
            size=change.size,
            body=None if change.body is None else base64.b64encode(change.body).decode("ascii"),
            actor=change.actor,
        ),
    )


def decode(
    topic: str, payload: bytes, *, server_id: str, received: datetime, bytes_max: int = EVENT_BYTES_MAX
) -> Change:
    """Return the change an MQTT message tells, or raise `NotAnEvent`.

    `received` stands in where the event has no time, or one more than a day in the future.
    """
    key = _key_of(topic, server_id)
    if len(payload) > bytes_max:
        raise NotAnEvent("too_large", f"{len(payload)} bytes, at most {bytes_max} are taken")
    try:
        event = _event_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = "invalid_field" if isinstance(error, msgspec.ValidationError) else "not_json"
        raise NotAnEvent(reason, str(error)) from error
    except RecursionError:
        raise NotAnEvent("nesting", f"JSON nests deeper than {NESTING_MAX}") from None
    # Brackets are counted first, because almost no event has as many as it takes to nest too deep.
    if payload.count(b"[") + payload.count(b"{") > NESTING_MAX:
        _check_nesting((event.data.metadata, event.data.actor))
    return _change_of(event, key, received)


def _key_of(topic: str, server_id: str) -> ItemKey:
    levels = topic.split("/")
    if len(levels) != 6 or levels[0] != "backupd" or levels[1] != "v1":  # noqa: PLR2004 - the shape of the topic
        raise NotAnEvent("topic", f"{topic!r} is not {TOPIC_ROOT}/<server>/<account>/<kind>/<item>")
    try:
        server, account, kind, item = (
            unquote(level, errors="strict") if "%" in level else level for level in levels[2:]
        )
        topic.encode()
    except UnicodeError:
        raise NotAnEvent("topic", f"{topic!a} is not UTF-8 in its percent-encoding") from None
    if server != server_id:
        raise NotAnEvent("other_server", f"the event is for server {server!r}, this one is {server_id!r}")
    for name, text in (("account", account), ("item", item)):
        if not text or len(text) > IDENTIFIER_CHARACTERS_MAX or "\0" in text:
            raise NotAnEvent(name, f"{name} id {text[:80]!r} is empty, too long or holds NUL")
    try:
        known = Kind(kind)
    except ValueError:
        raise NotAnEvent("kind", f"{kind!r} is no kind of item") from None
    if known in SERVER_KINDS:
        raise NotAnEvent("scan_only", f"{known.value} items are recorded by SmartScan only")
    return ItemKey(account, known, item)


def _check_nesting(value: object) -> None:
    """Refuse what nests too deep, level by level: the check itself must not need the stack it guards."""
    level = [value]
    for _ in range(NESTING_MAX):
        inner = [one for one in level if isinstance(one, (dict, list, tuple))]
        if not inner:
            return
        level = [child for one in inner for child in (one.values() if isinstance(one, dict) else one)]
    raise NotAnEvent("nesting", f"JSON nests deeper than {NESTING_MAX}")


def _change_of(event: Event, key: ItemKey, received: datetime) -> Change:
    if event.specversion != "1.0":
        raise NotAnEvent("specversion", f"specversion {event.specversion!r} is not '1.0'")
    for text in (event.id, event.source):
        if not text or len(text) > IDENTIFIER_CHARACTERS_MAX:
            raise NotAnEvent("identity", f"id and source have 1 to {IDENTIFIER_CHARACTERS_MAX} characters")
    change_type = _TYPES.get(event.type)
    if change_type is None:
        raise NotAnEvent("type", f"{event.type!r} is none of {', '.join(_TYPES)}")
    _check_noun(event.type, key)
    if event.sequence is not None and not 1 <= event.sequence <= NUMBER_MAX:
        raise NotAnEvent("sequence", f"sequence {event.sequence} is not from 1 to 2^63-1")
    facts = event.data
    body, digest, size = _content_of(facts, key.kind)
    metadata = facts.metadata
    if metadata is not None and facts.folder is not None and "folder" not in metadata:
        metadata = {"folder": facts.folder, **metadata}
    return Change(
        account=key.account,
        kind=key.kind,
        item=key.item,
        type=change_type,
        time=_time_of(event, received),
        origin=Origin.REALTIME,
        event=f"{event.source}#{event.id}",
        number=event.sequence,
        metadata=metadata,
        digest=digest,
        size=size,
        body=body,
        actor=facts.actor,
    )


def _check_noun(event_type: str, key: ItemKey) -> None:
    noun = event_type.split(".")[1]
    if (noun == "account") != (key.kind is Kind.ACCOUNT):
        raise NotAnEvent("type", f"{event_type} does not fit an item of kind {key.kind.value}")
    if noun == "folder" and key.kind is not Kind.FOLDER:
        raise NotAnEvent("type", f"{event_type} does not fit an item of kind {key.kind.value}")
    if key.kind is Kind.ACCOUNT and key.item != key.account:
        raise NotAnEvent("account", f"account item {key.item!r} does not stand under its own account")


def _time_of(event: Event, received: datetime) -> datetime:
    when = event.time
    if when is None or when.tzinfo is None:
        if when is not None:
            raise NotAnEvent("time", "time has no zone")
        return received
    try:
        when = when.astimezone(UTC)
    except OverflowError:
        raise NotAnEvent("time", f"time {when} is out of range") from None
    if when < _EARLIEST:
        raise NotAnEvent("time", f"time {when} is before 1970")
    return when if when - received < FUTURE_MAX else received


def _content_of(facts: EventFacts, kind: Kind) -> tuple[bytes | None, str | None, int | None]:
    if facts.digest is not None and not is_digest(facts.digest):
        raise NotAnEvent("digest", f"{facts.digest!r} is no SHA-256 in Base64 with ',' for '/'")
    if facts.size is not None and not 0 <= facts.size <= NUMBER_MAX:
        raise NotAnEvent("size", f"size {facts.size} is not from 0 to 2^63-1")
    if kind not in CONTENT_KINDS:
        if facts.digest is not None or facts.body is not None:
            raise NotAnEvent("digest", f"items of kind {kind.value} have no content")
        return None, None, None
    if facts.body is None:
        return None, facts.digest, facts.size
    try:
        body = base64.b64decode(facts.body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotAnEvent("body", f"body is not Base64: {error}") from error
    digest = digest_of(body)
    if facts.digest not in (None, digest):
        raise NotAnEvent("digest", "body and digest do not fit each other")
    if facts.size not in (None, len(body)):
        raise NotAnEvent("size", f"body has {len(body)} bytes, size says {facts.size}")
    return body, digest, len(body)


def facts_text(facts: Mapping[str, Any]) -> str:
    """Return facts as compact JSON, for quarantine and messages."""
    return msgspec.json.encode(facts).decode()
