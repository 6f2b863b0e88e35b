"""Events on the wire: what is refused and why, and that everything else comes through unchanged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.errors import NotAnEvent
from backupd.events import (
    EVENT_BYTES_MAX,
    NESTING_MAX,
    Change,
    decode,
    encode_change,
    encode_event,
    event_of,
    subscription_topic,
    topic_of,
)
from backupd.items import CONTENT_KINDS, SERVER_KINDS, ItemKey, Kind, digest_of
from backupd.states import ChangeType, Origin

SERVER = "9d16badb"
NOW = datetime(2026, 11, 23, 20, 55, tzinfo=UTC)
TOPIC = f"backupd/v1/{SERVER}/alice/message/2057"
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "0192f3c4",
    "source": "/appservers/1",
    "type": "mailbox.item.modified",
}

texts = st.text(st.characters(codec="utf-8"), max_size=20)
identifiers = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
metadata = st.dictionaries(texts, json_values, max_size=4)
moments = st.datetimes(datetime(1970, 1, 2), datetime(2026, 11, 23), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy adds the zone itself


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Make changes as an AppServer's watch tells them."""
    kind = draw(st.sampled_from([one for one in Kind if one not in SERVER_KINDS]))
    account = draw(identifiers)
    types = [ChangeType.CREATED, ChangeType.MODIFIED, ChangeType.DELETED]
    types += [ChangeType.MOVED] if kind is not Kind.ACCOUNT else []
    types += [ChangeType.EMPTIED] if kind is Kind.FOLDER else []
    body = draw(st.none() | st.binary(max_size=50)) if kind in CONTENT_KINDS else None
    return Change(
        account=account,
        kind=kind,
        item=account if kind is Kind.ACCOUNT else draw(identifiers),
        type=draw(st.sampled_from(types)),
        time=draw(moments),
        origin=Origin.REALTIME,
        number=draw(st.none() | st.integers(1, (1 << 63) - 1)),
        metadata=draw(st.none() | metadata),
        digest=None if body is None else digest_of(body),
        size=None if body is None else len(body),
        body=body,
        actor=draw(st.none() | metadata),
    )


def event(**fields: object) -> bytes:
    return msgspec.json.encode(EVENT | fields)


def read(payload: bytes, topic: str = TOPIC, **more: Any) -> Change:
    return decode(topic, payload, server_id=SERVER, received=NOW, **more)


@given(changes())
def test_what_is_published_comes_through_and_can_be_journaled(change: Change) -> None:
    """event_of, encode_event, decode and encode_change lose nothing, whatever ids and metadata hold."""
    payload = encode_event(event_of(change, source="/appservers/1", event_id="7"))
    read_back = decode(topic_of(SERVER, change.key), payload, server_id=SERVER, received=NOW)
    assert read_back == msgspec.structs.replace(change, event="/appservers/1#7")
    assert msgspec.json.decode(encode_change(read_back), type=Change) == read_back


@given(identifiers, identifiers, identifiers)
def test_a_topic_has_six_levels_and_no_wildcards(server: str, account: str, item: str) -> None:
    """Whatever the ids, a topic can be published on and is under its server's filter."""
    topic = topic_of(server, ItemKey(account, Kind.MESSAGE, item))
    assert topic.count("/") == 5
    assert not set("+#\0") & set(topic)
    assert topic.startswith(subscription_topic(server)[:-1])


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_refused(payload: bytes) -> None:
    """No payload raises anything but NotAnEvent."""
    with pytest.raises(NotAnEvent):
        read(payload)


def reason_or_change(payload: bytes, topic: str = TOPIC) -> str | Change:
    """Return the change, or the reason of the refusal; anything else that is raised fails the test."""
    try:
        return read(payload, topic)
    except NotAnEvent as error:
        return error.reason


@given(
    st.text(max_size=80) | st.builds("backupd/v1/{}/{}/message/{}".format, st.text(), st.text(), st.text())
)
def test_any_topic_is_one_of_ours_or_refused(topic: str) -> None:
    """No topic raises anything but NotAnEvent, lone surrogates and NUL included."""
    told = reason_or_change(event(), topic)
    refusals = {"topic", "other_server", "account", "item", "kind", "type", "scan_only"}
    assert told in refusals if isinstance(told, str) else encode_change(told)


@given(st.dictionaries(st.sampled_from([*EVENT, "time", "sequence", "data", "subject"]), json_values))
def test_any_object_is_an_event_or_refused(fields: dict[str, Any]) -> None:
    """No JSON object raises anything but NotAnEvent, and what is taken can be journaled and read back."""
    told = reason_or_change(event(**fields))
    if isinstance(told, Change):
        assert msgspec.json.decode(encode_change(told), type=Change) == told
    else:
        assert told.replace("_", "").isalpha()


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("backupd/v1/9d16badb/alice/message", event(), "topic"),
        ("backupd/v2/9d16badb/alice/message/1", event(), "topic"),
        ("backupd/v1/9d16badb/alice/message/%ff", event(), "topic"),
        ("backupd/v1/9d16badb/alice/message/\udcff", event(), "topic"),
        ("backupd/v1/another/alice/message/1", event(), "other_server"),
        ("backupd/v1/9d16badb//message/1", event(), "account"),
        ("backupd/v1/9d16badb/alice/message/", event(), "item"),
        ("backupd/v1/9d16badb/alice/message/a%00b", event(), "item"),
        (f"backupd/v1/9d16badb/alice/message/{'1' * 1025}", event(), "item"),
        ("backupd/v1/9d16badb/alice/parcel/1", event(), "kind"),
        ("backupd/v1/9d16badb/alice/domain/1", event(), "scan_only"),
        (TOPIC, b"", "not_json"),
        (TOPIC, b'{"id": "\xff"}', "not_json"),
        (TOPIC, b"[]", "invalid_field"),
        (TOPIC, event(id=7), "invalid_field"),
        (TOPIC, b" " * (EVENT_BYTES_MAX + 1), "too_large"),
        (TOPIC, event(specversion="0.3"), "specversion"),
        (TOPIC, event(id=""), "identity"),
        (TOPIC, event(source="s" * 1025), "identity"),
        (TOPIC, event(type="mailbox.item.read"), "type"),
        (TOPIC, event(type="mailbox.account.created"), "type"),
        (TOPIC, event(type="mailbox.folder.emptied"), "type"),
        ("backupd/v1/9d16badb/alice/account/alice", event(), "type"),
        ("backupd/v1/9d16badb/alice/account/bob", event(type="mailbox.account.created"), "account"),
        (TOPIC, event(sequence=0), "sequence"),
        (TOPIC, event(sequence=1 << 63), "sequence"),
        (TOPIC, event(time="2026-11-23T20:55:00"), "time"),
        (TOPIC, event(time="0001-01-01T00:00:00+12:00"), "time"),
        (TOPIC, event(time="1969-12-31T23:59:59Z"), "time"),
        (TOPIC, event(data={"digest": "abc"}), "digest"),
        (TOPIC, event(data={"digest": "A" * 43 + "=", "body": "YQ=="}), "digest"),
        (TOPIC, event(data={"size": -1}), "size"),
        (TOPIC, event(data={"size": 2, "body": "YQ=="}), "size"),
        (TOPIC, event(data={"body": "?"}), "body"),
        (TOPIC, event(data={"body": "ä"}), "body"),
        ("backupd/v1/9d16badb/alice/folder/1", event(data={"body": "YQ=="}), "digest"),
        (TOPIC, b'{"data":{"metadata":{"x":' + b"[" * 100_000, "nesting"),
    ],
)
def test_each_refusal_names_its_reason(topic: str, payload: bytes, reason: str) -> None:
    """The reason is stable, for metrics; the message is for people."""
    with pytest.raises(NotAnEvent) as caught:
        read(payload, topic)
    assert caught.value.reason == reason
    assert caught.value.message


def nested(depth: int) -> dict[str, Any]:
    value: Any = 0
    for _ in range(depth - 1):
        value = [value]
    return {"x": value}


def test_nesting_has_a_bound_and_brackets_alone_do_not_count() -> None:
    """Deep JSON is refused before a reader of the journal runs out of stack; wide JSON is taken.

    The event and its `data` are the first two levels.
    """
    assert read(event(data={"metadata": nested(NESTING_MAX - 2)}))
    with pytest.raises(NotAnEvent, match="nests deeper"):
        read(event(data={"metadata": nested(NESTING_MAX - 1)}))
    wide = {"x": [[] for _ in range(1000)]}
    assert read(event(data={"metadata": wide})).metadata == wide


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (None, NOW),
        ("2026-11-23T20:54:59.999999Z", NOW - timedelta(microseconds=1)),
        ("2026-11-23T22:55:00+02:00", NOW),
        ("2026-11-24T20:54:59Z", NOW + timedelta(days=1, seconds=-1)),
        ("2027-01-01T00:00:00Z", NOW),
    ],
)
def test_the_time_of_an_event(sent: str | None, taken: datetime) -> None:
    """Its own in UTC; the moment of arrival where it has none or one far in the future."""
    assert read(event(time=sent)).time == taken


def test_the_folder_beside_the_metadata_becomes_part_of_it() -> None:
    """`data.folder` fills in for metadata without one, and does not overrule it."""
    assert read(event(data={"folder": "Sent", "metadata": {}})).metadata == {"folder": "Sent"}
    own = {"folder": "Sent", "metadata": {"folder": "INBOX"}}
    assert read(event(data=own)).metadata == {"folder": "INBOX"}
    assert read(event(data={"folder": "Sent"})).metadata is None
