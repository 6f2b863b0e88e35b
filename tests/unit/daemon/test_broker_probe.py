"""The probe's judgement: how far it came, and what is to be done. Real brokers: tests/integration."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from backupd.events import subscription_topic
from backupd.views import Outcome
from daemon.broker_address import BrokerAddress
from daemon.broker_probe import PROBE_LEVEL, BrokerProbe, ProbeFacts, judge_probe

WELL = ProbeFacts(
    broker="mqtt://x:1",
    topic="t",
    connected=True,
    subscribed=True,
    delivered=True,
    session_kept=True,
    sent=2100,
    kept=2100,
)
OK, WARNING, CRITICAL = Outcome.OK, Outcome.WARNING, Outcome.CRITICAL
LARGEST = (1 << 20) + 4096


@pytest.mark.parametrize(
    ("changes", "outcome", "word"),
    [
        ({}, OK, "restart of its own can't be seen"),
        ({"connected": False, "error": "nobody listens there"}, CRITICAL, "systemctl status mosquitto"),
        ({"connected": False, "error": "refuses the user name or password"}, CRITICAL, "mosquitto_passwd"),
        ({"connected": False, "error": "the broker's certificate is not trusted"}, CRITICAL, "ca_file"),
        ({"foreign_session": True}, CRITICAL, "use_username_as_clientid"),
        ({"delivered": False, "session_kept": False}, WARNING, "topic readwrite backupd/v1/!probe/#"),
        ({"error": "no answer in time"}, WARNING, "no answer in time"),
        ({"session_kept": False, "kept": 0}, CRITICAL, "persistent_client_expiration"),
        ({"kept": 0}, CRITICAL, "but no message"),
        ({"kept": 2099}, CRITICAL, "2,099 of 2,100"),
        ({"packet_bytes_max": LARGEST}, OK, "kept 2,100 messages"),
        ({"packet_bytes_max": LARGEST - 1}, WARNING, "max_packet_size"),
    ],
)
def test_each_end_of_a_probe_has_its_cure(changes: dict[str, Any], outcome: Outcome, word: str):
    """What loses events is critical; a right that the probe alone lacks, a small bound, is a warning."""
    facts = msgspec.structs.replace(WELL, **changes)
    check = judge_probe(facts, event_bytes_max=1 << 20, username="backup")
    assert check.outcome is outcome
    assert word in f"{check.found} | {check.cure}"
    assert bool(check.cure) is (outcome is not OK)


@pytest.mark.parametrize("server_id", ["!probe", "a/b", "11111111-2222-4333-8444-555555555555"])
def test_no_daemon_is_subscribed_to_the_topic_of_a_probe(server_id: str):
    """Whatever a server's id is, its events stand elsewhere; one ACL rule may still do for both."""
    probe = BrokerProbe(BrokerAddress.parse("mqtt://x:1"))
    assert quote(PROBE_LEVEL, safe="@=,:~") != PROBE_LEVEL
    assert not probe.facts.topic.startswith(subscription_topic(server_id).removesuffix("#"))
    assert probe.facts.topic.startswith("backupd/v1/!probe/")


async def test_nobody_there_is_told_and_not_raised():
    """A port that nobody listens on is an answer of the probe, with the reason in words."""
    facts = await BrokerProbe(BrokerAddress.parse("mqtt://127.0.0.1:1")).run()
    assert not facts.connected
    assert facts.error == "nobody listens there (connection refused)"
