"""The probe of the broker: whether it keeps messages for a subscriber that is away.

It connects as the daemon does (MQTT 5, a session that outlives the connection, QoS 1) but under an identifier
made for this once, subscribes to a topic that no event can have, and goes. A second connection publishes to
that topic, so many small messages that the limits of usual set-ups show; back again, the first must find its
session and all of them. Before that, one message is sent while it is connected: where that does not arrive, a
right is missing, not persistence. At the end the session
is ended, so that nothing stays on the broker; should the daemon die meanwhile, the broker does it after
`SESSION_SECONDS`. The daemon's own session is not touched: a broker that hands it to the probe (all clients
of a user share one there) is left at once, without ending it.

Fails as `Connection` does; whatever was found out until then is in the facts.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

import aiomqtt
import msgspec

from backupd.events import TOPIC_ROOT
from backupd.jobs.doctor import verdict
from backupd.views import CheckView
from daemon.arrivals import Arrivals
from daemon.broker_address import BrokerAddress, explained
from daemon.connection import Connection

NAME = "broker"
PROBE_LEVEL = "!probe"
"""Stands where events have their server's id; no id is written so, for `!` is always percent-encoded."""
SESSION_SECONDS = 60
DELIVERY_SECONDS = 2.0
PROBE_SECONDS = 10.0
KEPT_MESSAGES = 2_100
"""More than mosquitto keeps by default for a client that is away: 1,000, and at most 1,000 in flight."""
PUBLISH_AT_ONCE = 100
LIVE = b"live"
ENVELOPE_BYTES = 4096
"""What a packet holds besides its payload, at most."""
RESTART_TOLD = (
    "whether it keeps them over a restart of its own can't be seen from here: "
    "mosquitto needs persistence, see config/mosquitto.conf"
)
CONFIGURATION_CURE = "set it up as config/mosquitto.conf shows: persistence true, max_queued_messages 0"


class ProbeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How far the probe came; each step needs those before it.

    `error` is what ended it before its end. `foreign_session`: a session was there already for an identifier
    that never was used.
    """

    broker: str
    topic: str = ""
    error: str = ""
    connected: bool = False
    foreign_session: bool = False
    subscribed: bool = False
    delivered: bool = False
    session_kept: bool = False
    sent: int = 0
    kept: int = 0
    packet_bytes_max: int | None = None


class BrokerProbe:
    """One probe of one broker; `run` it once."""

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        token = secrets.token_hex(8)
        self._identifier = f"backupd-probe-{token}"
        self.facts = ProbeFacts(broker=str(address), topic=f"{TOPIC_ROOT}/{PROBE_LEVEL}/{token}")

    async def run(self) -> ProbeFacts:
        """Probe, and return what was found out. Never raises for what a broker may do."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._probe()
        except (aiomqtt.MqttError, OSError, UnicodeDecodeError) as error:
            # A timeout is an OSError as well.
            self._learn(error=explained(error, self._address).removeprefix(f"{self._address}: "))
        return self.facts

    def _learn(self, **facts: bool | str | int | None) -> None:
        self.facts = msgspec.structs.replace(self.facts, **facts)

    async def _probe(self) -> None:
        subscriber = self._connection(self._identifier, persistent=True)
        await subscriber.open()
        is_ours = not subscriber.session_present
        try:
            self._learn(connected=True, packet_bytes_max=subscriber.granted.packet_bytes_max)
            if not is_ours:
                self._learn(foreign_session=True)
                return
            await subscriber.subscribe(self.facts.topic)
            self._learn(subscribed=True)
            await self._leave_a_message(subscriber)
        finally:
            # What is closed already stays so: then the session is left to be found again.
            await subscriber.close(forget_session=is_ours)
        if self.facts.delivered:
            await self._find_it_again()

    async def _leave_a_message(self, subscriber: Connection) -> None:
        """Send a message that must arrive; then those that must be kept, for the subscriber has gone."""
        numbered = _numbered()
        publisher = self._connection(f"{self._identifier}-p", persistent=False)
        await publisher.open()
        try:
            await publisher.publish([(self.facts.topic, LIVE)])
            delivered = await _arrivals(subscriber, {LIVE}) == 1
            if delivered:
                await subscriber.close()
                for start in range(0, len(numbered), PUBLISH_AT_ONCE):
                    await publisher.publish(
                        [(self.facts.topic, one) for one in numbered[start : start + PUBLISH_AT_ONCE]]
                    )
                self._learn(sent=len(numbered))
            self._learn(delivered=delivered)
        finally:
            await publisher.close()

    async def _find_it_again(self) -> None:
        again = self._connection(self._identifier, persistent=True)
        await again.open()
        try:
            self._learn(session_kept=again.session_present)
            if again.session_present:
                self._learn(kept=await _arrivals(again, set(_numbered())))
        finally:
            await again.close(forget_session=True)

    def _connection(self, identifier: str, *, persistent: bool) -> Connection:
        return Connection(
            self._address,
            identifier=identifier,
            arrivals=Arrivals(),
            persistent=persistent,
            session_seconds=SESSION_SECONDS,
        )


def _numbered() -> list[bytes]:
    return [b"%d" % number for number in range(KEPT_MESSAGES)]


async def _arrivals(connection: Connection, wanted: set[bytes]) -> int:
    """Return how many of the wanted payloads arrive before it is silent too long; all get acknowledged."""
    missing = set(wanted)
    with suppress(TimeoutError):
        while missing:
            async with asyncio.timeout(DELIVERY_SECONDS):
                arrivals = await connection.arrivals.take()
            connection.acknowledge(arrivals)
            connection.read_on()
            missing -= {arrival.payload for arrival in arrivals}
    return len(wanted) - len(missing)


def judge_probe(facts: ProbeFacts, *, event_bytes_max: int, username: str | None) -> CheckView:
    """Judge what a probe found out."""
    who = username or "anonymous clients"
    if not facts.connected:
        return _judge_unreached(facts)
    if facts.foreign_session:
        text = f"{facts.broker} gives all clients of {who} one session: a second client takes the daemon's"
        cure = "mosquitto: remove use_username_as_clientid; else a user for backupd alone, and no doctor"
        return verdict.critical(NAME, text, cure)
    if facts.error or not facts.delivered:
        what = facts.error or "a message to it was taken and did not arrive"
        text = f"{facts.broker} lets us in, but not use the probe topic: {what}"
        topic = f"{TOPIC_ROOT}/{PROBE_LEVEL}/#"
        cure = f"to have persistence checked, let {who} use it; mosquitto's ACL file: topic readwrite {topic}"
        return verdict.warning(NAME, text, cure)
    if not facts.session_kept or facts.kept < facts.sent:
        return _judge_loss(facts)
    if facts.packet_bytes_max is not None and facts.packet_bytes_max < event_bytes_max + ENVELOPE_BYTES:
        largest = f"packets of {facts.packet_bytes_max:,} bytes, events may have {event_bytes_max:,}"
        cure = f"mosquitto: max_packet_size {event_bytes_max + ENVELOPE_BYTES}; or lower event_bytes_max"
        return verdict.warning(NAME, f"{facts.broker} takes {largest}", cure)
    text = f"{facts.broker} kept {facts.kept:,} messages for a client that was away; {RESTART_TOLD}"
    return verdict.ok(NAME, text)


def _judge_loss(facts: ProbeFacts) -> CheckView:
    if not facts.session_kept:
        text = f"{facts.broker} forgets who goes: each restart of the daemon loses the events of that time"
        cure = "allow sessions that outlive the connection; mosquitto: persistent_client_expiration 14d"
        return verdict.critical(NAME, text, cure)
    if not facts.kept:
        text = f"{facts.broker} keeps the session but no message: events are lost while the daemon is away"
    else:
        kept = f"{facts.kept:,} of {facts.sent:,}"
        text = f"{facts.broker} kept {kept} messages for a client that was away and dropped the others"
    return verdict.critical(NAME, text, CONFIGURATION_CURE)


def _judge_unreached(facts: ProbeFacts) -> CheckView:
    text = f"{facts.broker} can't be used: {facts.error}"
    if "password" in facts.error or "does not let us in" in facts.error:
        cure = "correct [broker] username and password_file; mosquitto: mosquitto_passwd FILE USER, reload"
    elif "certificate" in facts.error or "TLS" in facts.error:
        cure = "correct [broker] ca_file and the host's name in url; see openssl s_client -connect HOST:PORT"
    else:
        cure = "systemctl status mosquitto; is [broker] url right, does a firewall stand between?"
    return verdict.critical(NAME, text, cure)


EMBEDDED_VIEW = verdict.ok(
    NAME,
    "embedded: it keeps nothing, so each restart of the daemon is healed by a scan; "
    "a real broker (mosquitto) would keep the events",
)
"""What there is to say of the broker inside the daemon."""
