"""A stream of events about the messages of a tree that is backed up, and who publishes it.

Every event tells a change of flags as a mail server would: the whole metadata and the digest of a content
that the backup has, about 400 bytes. `python -m tests.bench.stream PORT FILE [PER_SECOND]` publishes the
lines of FILE (topic, tab, payload): as fast as the broker takes them, or evenly; it prints `ready` and waits
for a line on standard input first. Events that are published evenly carry the monotonic nanoseconds of their
sending in their identifier.
"""

from __future__ import annotations

import itertools
import socket
import struct
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from backupd.appservers.registry import derived_id
from backupd.events import topic_of
from backupd.items import ItemKey, Kind, digest_of
from tests.world.flood import MESSAGE_IDS, connect, packet, publish, text
from tests.world.mailtree import MailTree

PLACE = b"@@@@@@@@@@@@@@@@@@@@"
"""Stands where an evenly published event carries its moment of sending: as many digits."""
_FLAGS = ("seen", "flagged", "replied")


def write_events(tree: MailTree, server_id: str, events: int, file: Path) -> int:
    """Write a file of events that go round all messages of a tree; return the mean bytes of a payload."""
    items = [
        (ItemKey(derived_id("account", address), Kind.MESSAGE, Path(name).name.partition(":")[0]), content)
        for address in tree.addresses
        for name, content in tree.contents.items()
        if name.startswith(f"{address.partition('@')[2]}/{address.partition('@')[0]}/Maildir/cur/")
    ]
    topics = [topic_of(server_id, key) for key, _ in items]
    digests = [digest_of(content) for _, content in items]
    size = 0
    with file.open("wb") as lines:
        for number in range(events):
            place, turn = number % len(items), number // len(items)
            payload = msgspec.json.encode(
                {
                    "specversion": "1.0",
                    "id": PLACE.decode() + f"-{number}",
                    "source": "/appservers/bench",
                    "type": "mailbox.item.modified",
                    "time": datetime.now(UTC),
                    "data": {
                        "folder": "INBOX",
                        "metadata": {
                            "folder": "INBOX",
                            "flags": [flag for bit, flag in enumerate(_FLAGS) if turn + 1 >> bit & 1],
                            "tags": [f"turn-{turn}"],
                            "received": "2026-11-23T20:55:00.123456Z",
                        },
                        "digest": digests[place],
                        "size": len(items[place][1]),
                    },
                }
            )
            size += len(payload)
            lines.write(topics[place].encode() + b"\t" + payload + b"\n")
    return size // events


class Publisher:
    """A process that publishes a file once it is told to."""

    def __init__(self, port: int, file: Path, *, per_second: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(port), str(file), str(per_second)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.close()

    def wait(self) -> None:
        """Wait until the broker has confirmed everything."""
        assert self._process.wait(120) == 0


def main() -> None:
    port, file, per_second = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    numbers = itertools.cycle(range(1, MESSAGE_IDS))
    packets = []
    for line in file.read_bytes().splitlines():
        topic, _, payload = line.partition(b"\t")
        packets.append(packet(0x32, text(topic.decode()) + struct.pack("!H", next(numbers)) + payload))
    connection = connect(port)
    print("ready", flush=True)
    sys.stdin.readline()
    if per_second:
        _publish_evenly(connection, packets, per_second)
    else:
        publish(connection, packets)
    connection.sendall(packet(0xE0, b""))
    connection.close()


def _publish_evenly(connection: socket.socket, packets: list[bytes], per_second: int) -> None:
    threading.Thread(target=_read_confirmations, args=(connection,), daemon=True).start()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    began = time.monotonic()
    for number, content in enumerate(packets):
        wait = began + number / per_second - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        connection.sendall(content.replace(PLACE, b"%020d" % time.monotonic_ns()))
    time.sleep(1.0)


def _read_confirmations(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


if __name__ == "__main__":
    main()
