"""A fast publisher for tests and measurements: MQTT 3.1.1 with QoS 1 by hand, in a process of its own.

`python -m tests.world.flood PORT SERVER_ID EVENTS [FIRST]` makes its packets, prints `ready`, waits for a
line on standard input, publishes with at most `WINDOW` events unconfirmed, and prints how many the broker
confirmed. Credentials of `tests.world.brokers` are sent; a broker for anybody ignores them.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading

import msgspec

from tests.world.brokers import PASSWORD, USERNAME

WINDOW = 1000
MESSAGE_IDS = 60_000


def event_payload(number: int) -> bytes:
    """Return an event of ordinary size about item `number`; its id is `event-<number>`."""
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": f"event-{number}",
            "source": "/appservers/flood",
            "type": "mailbox.item.modified",
            "time": "2026-11-23T20:55:00.123456Z",
            "subject": f"alice/message/{number}",
            "sequence": number + 1,
            "data": {
                "folder": "INBOX/Projects",
                "metadata": {
                    "flags": ["seen"],
                    "tags": ["work"],
                    "folder": "INBOX/Projects",
                    "subject": "Hello",
                },
                "digest": "A" * 43 + "=",
                "size": 5123,
            },
        }
    )


def packet(kind: int, body: bytes) -> bytes:
    """Return an MQTT control packet (MQTT 3.1.1, section 2.2)."""
    length, rest = bytearray(), len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length.append(digit | 128 if rest else digit)
        if not rest:
            return bytes([kind]) + bytes(length) + body


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("!H", len(raw)) + raw


def connect(port: int) -> socket.socket:
    """Connect and log in."""
    connection = socket.create_connection(("127.0.0.1", port))
    flags = b"\x04\xc2" + struct.pack("!H", 0)
    connection.sendall(packet(0x10, text("MQTT") + flags + text("flood") + text(USERNAME) + text(PASSWORD)))
    answer = connection.recv(4)
    assert answer == b"\x20\x02\x00\x00", answer
    return connection


def publish(connection: socket.socket, packets: list[bytes]) -> int:
    """Send packets, never more than a window ahead of the confirmations; return how many were confirmed."""
    confirmed_bytes = 0
    changed = threading.Condition()

    def count() -> None:
        nonlocal confirmed_bytes
        while confirmed_bytes < 4 * len(packets) and (got := connection.recv(1 << 16)):
            with changed:
                confirmed_bytes += len(got)
                changed.notify()

    counter = threading.Thread(target=count)
    counter.start()
    sent = 0
    while sent < len(packets):
        with changed:
            while sent - confirmed_bytes // 4 >= WINDOW:
                changed.wait()
            end = min(sent + 200, len(packets), confirmed_bytes // 4 + WINDOW)
        connection.sendall(b"".join(packets[sent:end]))
        sent = end
    counter.join()
    return confirmed_bytes // 4


def main() -> None:
    port, server_id, events = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    first = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    packets = [
        packet(
            0x32,
            text(f"backupd/v1/{server_id}/alice/message/{number}")
            + struct.pack("!H", number % MESSAGE_IDS + 1)
            + event_payload(number),
        )
        for number in range(first, first + events)
    ]
    connection = connect(port)
    print("ready", flush=True)
    sys.stdin.readline()
    print(publish(connection, packets), flush=True)
    connection.sendall(packet(0xE0, b""))
    connection.close()


if __name__ == "__main__":
    main()
