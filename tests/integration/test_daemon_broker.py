"""The whole daemon and a real mosquitto that goes, comes back, and brings strange things."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
import pytest

from backupd.events import topic_of
from backupd.items import ItemKey, Kind
from tests.world import mailtree
from tests.world.brokers import PASSWORD, USERNAME, Mosquitto
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost
from tests.world.patience import eventually

pytestmark = pytest.mark.server("mosquitto")

SERVER_ID = "11111111-2222-4333-8444-555555555555"
SOURCE = "/appservers/test"
SOON = {
    "daemon.condition.STARTING": 0.5,
    "daemon.subscription.RETRY_SECONDS_MAX": 0.5,
    "daemon.publisher.RETRY_SECONDS_MAX": 0.5,
}
"""A broker that is away is told, and tried again, without the pauses that are right for a whole night."""


class Events:
    """An AppServer's side of the broker: publishes, and returns once the broker has confirmed."""

    def __init__(self, broker: Mosquitto) -> None:
        self._ids = itertools.count(1)
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.username_pw_set(USERNAME, PASSWORD)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def raw(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1).wait_for_publish(10)

    def publish(self, key: ItemKey, type_: str, *, sequence: int | None = None, **facts: Any) -> None:
        """Publish an event about an item, with `facts` as its data."""
        event = {
            "specversion": "1.0",
            "id": f"event-{next(self._ids)}",
            "source": SOURCE,
            "type": type_,
            "data": facts,
        }
        if sequence is not None:
            event["sequence"] = sequence
        self.raw(topic_of(SERVER_ID, key), json.dumps(event).encode())


class World(NamedTuple):
    """A mail host whose daemon is told by events alone: it does not watch the files."""

    daemon: Daemon
    host: MailHost
    events: Events
    account: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a daemon that listens to events only, after its first scan."""
    place = tmp_path_factory.mktemp("events")
    tree = mailtree.build(place / "vmail", accounts=2, messages=30, size=300)
    with contextlib.ExitStack() as stack:
        broker = Mosquitto(place / "mq")
        broker.start()
        stack.callback(broker.stop)
        daemon = stack.enter_context(daemon_on(broker, place / "b", tree.root, watch=False))
        daemon.wait_until_scanned()
        events = Events(broker)
        stack.callback(events.close)
        account = daemon.search(tree.addresses[0], search_filter="not_deleted", limit=1)
        assert account
        reply = daemon.command("backup/doItemSearch", account=tree.addresses[0], search_filter="all", limit=1)
        yield World(daemon, MailHost(tree), events, reply["account"])


def daemon_on(broker: Mosquitto, place: Path, root: Path, *, watch: bool, **more: Any) -> Daemon:
    return Daemon(
        place,
        root,
        broker=f"mqtt://127.0.0.1:{broker.port}",
        broker_lines=f'username = "{USERNAME}"\npassword_file = "{broker.password_file}"',
        watch=watch,
        server_id=SERVER_ID,
        **more,
    )


def scans_by_healing(daemon: Daemon, account: str) -> list[Any]:
    """Return the scans of an account that the daemon started by itself."""
    operations = daemon.ask("GET", "/v1/operations")["operations"]
    return [
        one
        for one in operations
        if one["type"] == "doAccountScan"
        and one["started_by"] == "healing"
        and one["parameters"]["account"] == account
    ]


def test_a_broker_that_is_down_at_start_and_later_loses_nothing(tmp_path):
    """Status names the broker that is not there; what happened meanwhile is recorded once it is back."""
    tree = mailtree.build(tmp_path / "vmail", accounts=1, messages=3, size=200)
    host, address = MailHost(tree), tree.addresses[0]
    broker = Mosquitto(tmp_path / "mq")
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(
            daemon_on(broker, tmp_path / "b", tree.root, watch=True, impatience=SOON)
        )
        problem = eventually("the status names it", lambda: problem_with(daemon, "is not connected"))
        assert problem["severity"] == "danger"
        assert str(broker.port) in problem["message"]
        assert not daemon.status()["broker"]["connected"]
        first = host.deliver_text(address, "While it was down at the start")
        broker.start()
        stack.callback(broker.stop)
        eventually("connected", lambda: daemon.status()["broker"]["connected"], 30)
        eventually("the message of before", lambda: daemon.find(address, "down at the start"), 30)
        daemon.wait_until_scanned()
        broker.kill()
        eventually("seen", lambda: not daemon.status()["broker"]["connected"])
        host.deliver_text(address, "While it was killed")
        host.flag(first, "F")
        broker.start()
        eventually("connected again", lambda: daemon.status()["broker"]["connected"], 30)
        eventually("the message of meanwhile", lambda: daemon.find(address, "it was killed"), 30)
        item = daemon.find(address, "down at the start")
        assert item is not None
        eventually("the flag", lambda: daemon.last(address, item)["metadata"]["flags"] == ["flagged"])
        eventually("no gap", lambda: daemon.status()["gaps"] == [], 30)
        assert problem_with(daemon, "is not connected") is None
        counts = {one["kind"]: one["items"] for one in daemon.status()["counts"]}
        assert counts["message"] == 5


def problem_with(daemon: Daemon, text: str) -> dict[str, Any] | None:
    """Return the problem in the status whose sentence contains a text."""
    return next((one for one in daemon.status()["problems"] if text in one["message"]), None)


def test_what_is_no_event_is_quarantined_and_counted(world):
    """Each bad message is kept with its reason and counted; good ones after it are recorded as ever."""
    daemon, _, events, account = world
    item = ItemKey(account, Kind.CONTACT, "from-an-event")
    bad = {
        "not_json": (topic_of(SERVER_ID, item), b"no JSON"),
        "invalid_field": (topic_of(SERVER_ID, item), b'{"specversion": "1.0", "id": 7}'),
        "kind": (f"backupd/v1/{SERVER_ID}/{account}/banana/1", b"{}"),
        "topic": (f"backupd/v1/{SERVER_ID}/too/short", b"{}"),
        "type": (
            topic_of(SERVER_ID, item),
            json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": "mailbox.sneezed"}).encode(),
        ),
    }
    refused = daemon.status()["broker"]["refused"]
    for topic, payload in bad.values():
        events.raw(topic, payload)
    metadata = {"folder": "Personal", "name": "Told by an event"}
    events.publish(item, "mailbox.item.created", metadata=metadata, body="QkVHSU46VkNBUkQ=")
    eventually("the good one", lambda: daemon.find(account, "Told by an event", kind="contact"))
    assert daemon.status()["broker"]["refused"] == refused + len(bad)
    kept = daemon.place / "state" / "quarantine.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {line["reason"] for line in lines} == set(bad)
    assert {(line["topic"], line["size"]) for line in lines} == {
        (topic, len(payload)) for topic, payload in bad.values()
    }


def test_an_emptied_folder_without_a_list_is_healed_by_a_scan(world):
    """`mailbox.folder.emptied` opens a gap; the daemon scans the account by itself, and closes it."""
    daemon, host, events, account = world
    address = host.addresses[0]
    victims = [path for folder in ("INBOX", "Sent") for path in host.messages(address, folder)]
    assert len(victims) > 15, "so many that a listing without them is suspicious but for the event"
    for path in victims:
        path.unlink()
    folder = ItemKey(account, Kind.FOLDER, "the-folder")
    events.publish(folder, "mailbox.folder.emptied", folder="INBOX")
    expected = {path.name.partition(":2,")[0] for path in victims}
    eventually("all are deleted", lambda: set(daemon.deleted(account)) == expected)
    eventually("the gap is closed", lambda: daemon.status()["gaps"] == [])
    (scan,) = scans_by_healing(daemon, account)
    assert scan["status"] == "successful", scan
    assert f"{len(victims)} deleted" in scan["verdict"]
    assert '"reason":"folder_emptied"' in daemon.log_text()


def test_a_hole_in_the_count_is_healed_by_a_scan(world):
    """Event 1, then 5: what 2 to 4 would have told is found by an account scan of the daemon's own."""
    daemon, host, events, _ = world
    address = host.addresses[1]
    account = daemon.command("backup/doItemSearch", account=address)["account"]
    key = ItemKey(account, Kind.CONTACT, "counted")
    metadata = {"folder": "Personal", "name": "First"}
    events.publish(key, "mailbox.item.created", sequence=1, metadata=metadata, body="QQ==")
    eventually("the first", lambda: daemon.find(account, "First", kind="contact"))
    assert scans_by_healing(daemon, account) == []
    host.deliver_text(address, "Nobody told of this")
    time.sleep(0.3)
    assert daemon.find(address, "Nobody told") is None
    metadata = {"folder": "Personal", "name": "Fifth"}
    events.publish(key, "mailbox.item.modified", sequence=5, metadata=metadata, body="Qg==")
    eventually("what was not told", lambda: daemon.find(address, "Nobody told"))
    eventually("the gap is closed", lambda: daemon.status()["gaps"] == [])
    (scan,) = scans_by_healing(daemon, account)
    assert scan["status"] == "successful"
    assert "events 2 to 4" in daemon.log_text()


def test_events_of_unknown_accounts_are_recorded_inside_the_backup_path(world):
    """An account that no listing knows gets a history of what events said, whatever its id looks like."""
    daemon, _, events, _ = world
    before = daemon.status()["broker"]["refused"]
    for account in ("nobody@nowhere", "../../../escaped", ".", "a/b"):
        key = ItemKey(account, Kind.MESSAGE, "7")
        metadata = {"folder": "INBOX", "subject": "Of an unknown account"}
        events.publish(key, "mailbox.item.created", metadata=metadata, body="SGVsbG8=")
        states = eventually(account, lambda account=account: states_of(daemon, account, "7"))
        assert states[-1]["metadata"]["subject"] == "Of an unknown account"
        assert (daemon.backup_path / states[-1]["blob_path"]).is_file()
    bare = ItemKey("nobody@nowhere", Kind.MESSAGE, "8")
    events.publish(bare, "mailbox.item.created")
    states = eventually("one that nobody can photograph", lambda: states_of(daemon, "nobody@nowhere", "8"))
    assert states[-1]["lacking"] == ["metadata", "content"]
    assert daemon.status()["broker"]["refused"] == before
    outside = [
        path for path in daemon.place.parent.rglob("*escaped*") if daemon.backup_path not in path.parents
    ]
    assert outside == []


def states_of(daemon: Daemon, account: str, item: str) -> list[Any]:
    """Return an item's states, none while it is unknown."""
    try:
        return daemon.states(account, item)
    except LookupError:
        return []
