"""The yardstick of the intake: a bare `async for` over an aiomqtt client that counts, and does nothing else.

`python -m tests.bench.bare_iterator PORT TOPIC EVENTS` prints `ready` once it is subscribed, and then the
seconds from the first message to the last. It runs on uvloop, as the daemon does, and acknowledges at once.
"""

from __future__ import annotations

import sys
import time

import aiomqtt
import uvloop

from tests.world.brokers import PASSWORD, USERNAME


async def count(port: int, topic: str, events: int) -> float:
    """Return the seconds between the first and the last of so many messages."""
    client = aiomqtt.Client(
        "127.0.0.1",
        port,
        username=USERNAME,
        password=PASSWORD,
        identifier="bare",
        protocol=aiomqtt.ProtocolVersion.V5,
        max_inflight_messages=1000,
    )
    async with client:
        await client.subscribe(topic, qos=1)
        print("ready", flush=True)
        received, began = 0, 0.0
        async for _ in client.messages:
            if not received:
                began = time.monotonic()
            received += 1
            if received == events:
                break
        return time.monotonic() - began


if __name__ == "__main__":
    print(uvloop.run(count(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))), flush=True)
