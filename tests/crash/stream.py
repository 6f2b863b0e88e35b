"""A stream of events whose outcome is known: what was published, and what the histories must say of it.

`Story` makes events from a seed: items are created, changed, moved, deleted and created again, each
photograph unlike the one before, so that no event may disappear. `Mouth` publishes them to a real broker and
returns once the broker has them. Several events of an item share a moment now and then, some come late.
"""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from backupd import events
from backupd.events import Change
from backupd.items import CONTENT_KINDS, ItemKey, Kind, digest_of
from backupd.states import ChangeType, Origin
from tests.world.brokers import PASSWORD, USERNAME

ACCOUNTS = ("anna", "b%/ör", "c" * 40)
KINDS = (Kind.MESSAGE, Kind.MESSAGE, Kind.CONTACT, Kind.DOCUMENT, Kind.FOLDER)
ITEMS_PER_ACCOUNT = 12
SOURCE = "/appservers/story"
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
SAME_MOMENT = timedelta(milliseconds=9)
ANOTHER_MOMENT = timedelta(milliseconds=350)
PUBLISH_SECONDS_MAX = 20.0
BIG_BYTES = 150_000


class Published(msgspec.Struct, frozen=True):
    """An event as it was published."""

    identifier: str
    change: Change


class Story:
    """What happens to some dozens of items, from a seed; remembers all of it by item."""

    def __init__(self, seed: str, server_id: str) -> None:
        self.server_id = server_id
        self.told: dict[ItemKey, list[Published]] = {}
        self.contents: dict[str, bytes] = {}
        self._dice = random.Random(seed)
        self._keys = [
            ItemKey(account, self._dice.choice(KINDS), f"{number}")
            for account in ACCOUNTS
            for number in range(100, 100 + ITEMS_PER_ACCOUNT)
        ]
        self._times: dict[ItemKey, datetime] = {}
        self._numbers = dict.fromkeys(ACCOUNTS, 0)
        self.count = 0

    def go_on(self, events_count: int) -> list[tuple[str, bytes]]:
        """Return the next events as topics and payloads."""
        return [self._tell(self._dice.choice(self._keys)) for _ in range(events_count)]

    def about(self, key: ItemKey, types: list[ChangeType]) -> list[tuple[str, bytes]]:
        """Return events of one item, of these types, each of a moment of its own."""
        return [self._tell(key, one) for one in types]

    def repeated(self, key: ItemKey) -> tuple[str, bytes]:
        """Return an event that tells of an item what its last event told: it may leave no trace."""
        change = self.told[key][-1].change
        self._numbers[key.account] += 1
        time = self._times[key] = self._times[key] + ANOTHER_MOMENT
        return self._encoded(
            msgspec.structs.replace(change, time=time, number=self._numbers[key.account]), "again"
        )

    def _tell(self, key: ItemKey, type_: ChangeType | None = None) -> tuple[str, bytes]:
        dice = self._dice
        before = [one.change for one in self.told.get(key, [])]
        is_gone = not before or before[-1].type is ChangeType.DELETED
        if type_ is None:
            kinds = [ChangeType.MODIFIED] * 5 + [ChangeType.MOVED, ChangeType.DELETED]
            type_ = ChangeType.CREATED if is_gone else dice.choice(kinds)
        turns = is_gone or type_ is ChangeType.DELETED
        step = ANOTHER_MOMENT if turns or dice.random() < 0.6 else SAME_MOMENT
        time = self._times[key] = self._times.get(key, BEGIN) + step
        if not turns and dice.random() < 0.05:
            time -= timedelta(hours=1)
        self._numbers[key.account] += 1
        self.count += 1
        change = Change(
            account=key.account,
            kind=key.kind,
            item=key.item,
            type=type_,
            time=time,
            origin=Origin.REALTIME,
            number=self._numbers[key.account],
        )
        if type_ is not ChangeType.DELETED:
            change = self._photographed(change, before[-1] if before and not is_gone else None)
        return self._encoded(change, str(self.count))

    def _photographed(self, change: Change, before: Change | None) -> Change:
        metadata = {"folder": self._dice.choice(("INBOX", "Sent", "INBOX/Projekte ä")), "stamp": self.count}
        if change.kind not in CONTENT_KINDS:
            return msgspec.structs.replace(change, metadata=metadata)
        if before is not None and before.digest is not None and self._dice.random() < 0.5:
            return msgspec.structs.replace(change, metadata=metadata, digest=before.digest, size=before.size)
        size = BIG_BYTES if self._dice.random() < 0.03 else self._dice.randrange(1, 4000)
        content = self._dice.randbytes(size) if self._dice.random() < 0.5 else b"%d " % self.count * size
        digest = digest_of(content[:size])
        self.contents[digest] = content[:size]
        return msgspec.structs.replace(
            change, metadata=metadata, digest=digest, size=size, body=content[:size]
        )

    def _encoded(self, change: Change, event_id: str) -> tuple[str, bytes]:
        event = events.event_of(change, source=SOURCE, event_id=f"{event_id}.{change.number}")
        published = Published(f"{SOURCE}#{event.id}", change)
        self.told.setdefault(change.key, []).append(published)
        return events.topic_of(self.server_id, change.key), events.encode_event(event)


class Mouth:
    """Publishes to a broker; `say` returns once the broker has acknowledged everything."""

    def __init__(self, port: int, name: str) -> None:
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"story-{name}", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.username_pw_set(USERNAME, PASSWORD)
        connected = threading.Event()
        self._client.on_connect = lambda *_: connected.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert connected.wait(PUBLISH_SECONDS_MAX)

    def say(self, messages: list[tuple[str, bytes]]) -> None:
        for told in [self._client.publish(topic, payload, qos=1) for topic, payload in messages]:
            told.wait_for_publish(PUBLISH_SECONDS_MAX)
            assert told.is_published()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
