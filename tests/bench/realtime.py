"""Intake and latency of the whole daemon, on a real mosquitto, recording going on in the same process.

The tree is scanned first; the events tell changes of its messages, so that each of them becomes a state.
Intake is timed from outside, by the growth of the journal: only what is durable stands there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from backupd.events import subscription_topic
from tests.bench.figures import Measurement, Target, percentile
from tests.bench.stream import Publisher, write_events
from tests.bench.subject import Subject
from tests.bench.timed_daemon import Marks
from tests.world.brokers import USERNAME, Mosquitto
from tests.world.mailtree import MailTree, build

SERVER_ID = "11111111-2222-4333-8444-555555555555"
LATENCY_EVENTS_PER_SECOND = 1000
NO_MOSQUITTO = "mosquitto is missing: apt-get install mosquitto"


def measure_intake(place: Path, *, quick: bool) -> Measurement:
    """Count events per second until durable, beside a bare iterator that keeps nothing."""
    if not _has_mosquitto():
        return Measurement(name="intake", skipped=NO_MOSQUITTO)
    events, rounds = (15_000, 1) if quick else (40_000, 2)
    tree = build(place / "vmail", accounts=1, messages=2_000, size=600)
    bare: list[float] = []
    ours: list[float] = []
    recorded: list[float] = []
    for turn in range(rounds):
        broker = Mosquitto(place / f"broker{turn}", persistent=False)
        broker.start()
        try:
            file = place / "events"
            payload_bytes = write_events(tree, SERVER_ID, events, file)
            bare.append(events / _bare_seconds(broker.port, file, events))
            write_events(tree, SERVER_ID, events, file)
            with _daemon(place / f"d{turn}", tree, broker) as daemon:
                daemon.wait_until_scanned()
                seconds, recorded_seconds = _daemon_seconds(daemon, broker.port, file, events)
            ours.append(events / seconds)
            recorded.append(events / recorded_seconds)
        finally:
            broker.stop()
    ratio = sum(ours) / sum(bare)
    return Measurement(
        name="intake",
        figures={
            "events": events,
            "payload_bytes": payload_bytes,
            "bare_iterator_events_per_second": round(sum(bare) / rounds),
            "durable_events_per_second": round(sum(ours) / rounds),
            "recorded_events_per_second": round(sum(recorded) / rounds),
            "bare_each": [round(one) for one in bare],
            "durable_each": [round(one) for one in ours],
        },
        targets=[Target.at_least_of("durable intake, in bare iterators", ratio, 1.0)],
        limited_by="one interpreter: paho's reading of packets and our decoding share it with the recorder",
    )


def measure_latency(place: Path, *, quick: bool) -> Measurement:
    """Time the way from publishing to the acknowledgement and into the history, at an even rate."""
    if not _has_mosquitto():
        return Measurement(name="latency", skipped=NO_MOSQUITTO)
    seconds = 3 if quick else 10
    events = seconds * LATENCY_EVENTS_PER_SECOND
    tree = build(place / "vmail", accounts=1, messages=2_000, size=600)
    broker = Mosquitto(place / "broker", persistent=False)
    broker.start()
    marks_file = place / "marks.json"
    daemon = _daemon(place / "d", tree, broker, module="tests.bench.timed_daemon", marks=str(marks_file))
    try:
        with daemon:
            daemon.wait_until_scanned()
            before = daemon.metric("journal_last_sequence")
            write_events(tree, SERVER_ID, events, place / "events")
            publisher = Publisher(broker.port, place / "events", per_second=LATENCY_EVENTS_PER_SECOND)
            publisher.begin()
            publisher.wait()
            _wait_until_recorded(daemon, before + events)
    finally:
        broker.stop()
    marks = msgspec.json.decode(marks_file.read_bytes(), type=Marks)
    sent = _sent_moments(daemon.backup_path / "journal", before)
    acknowledged = _latencies(sent, marks.acknowledged, 0)
    restorable = _latencies(sent, marks.recorded, before)
    shares = [(0.5, 0.005), (0.99, 0.025)]
    targets = [
        Target.at_most_of(
            f"acknowledged, seconds, p{share * 100:.0f}", percentile(acknowledged, share), bound
        )
        for share, bound in shares
    ]
    targets.append(Target.at_most_of("restorable, seconds, p99", percentile(restorable, 0.99), 0.5))
    return Measurement(
        name="latency",
        figures={
            "events": len(sent),
            "events_per_second": LATENCY_EVENTS_PER_SECOND,
            "acknowledged_max_seconds": round(max(acknowledged), 4),
            "acknowledged_p999_seconds": round(percentile(acknowledged, 0.999), 4),
            "restorable_p50_seconds": round(percentile(restorable, 0.5), 4),
            "restorable_max_seconds": round(max(restorable), 4),
        },
        targets=targets,
        limited_by="acknowledged: one sync of the disk, and the recorder's turns in the same interpreter; "
        "restorable: the coalescing window of 0.1 s, which waits for what belongs together",
    )


def _has_mosquitto() -> bool:
    return shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin") is not None


def _daemon(
    place: Path, tree: MailTree, broker: Mosquitto, *, module: str = "daemon", marks: str = ""
) -> Subject:
    return Subject(
        place,
        tree.root,
        broker=f"mqtt://127.0.0.1:{broker.port}",
        broker_lines=f'username = "{USERNAME}"\npassword_file = "{broker.password_file}"',
        watch=False,
        module=module,
        environment={"BENCH_MARKS": marks},
        server_id=SERVER_ID,
    )


def _bare_seconds(port: int, file: Path, events: int) -> float:
    topic = subscription_topic(SERVER_ID)
    command = [sys.executable, "-m", "tests.bench.bare_iterator", str(port), topic, str(events)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as iterator:
        assert iterator.stdout is not None
        assert iterator.stdout.readline() == b"ready\n"
        publisher = Publisher(port, file)
        publisher.begin()
        seconds = float(iterator.stdout.readline())
        publisher.wait()
    return seconds


def _daemon_seconds(daemon: Subject, port: int, file: Path, events: int) -> tuple[float, float]:
    """Return the seconds from the first durable event to the last, and until all were recorded."""
    journaled_before = daemon.metric("events_journaled_total")
    recorded_before = daemon.metric("journal_last_sequence")
    publisher = Publisher(port, file)
    size = _journal_bytes(daemon)
    publisher.begin()
    while _journal_bytes(daemon) == size:
        time.sleep(0.001)
    began = last_growth = time.monotonic()
    size = _journal_bytes(daemon)
    while True:
        time.sleep(0.002)
        now, grown = time.monotonic(), _journal_bytes(daemon)
        if grown != size:
            last_growth, size = now, grown
        elif now - last_growth > 0.25:  # noqa: SIM102 - asking costs the daemon time: only where all seems done
            if daemon.metric("events_journaled_total") - journaled_before >= events:
                break
    publisher.wait()
    _wait_until_recorded(daemon, recorded_before + events)
    return last_growth - began, time.monotonic() - began


def _journal_bytes(daemon: Subject) -> int:
    return sum(path.stat().st_size for path in (daemon.backup_path / "journal").iterdir())


def _wait_until_recorded(daemon: Subject, sequence: int) -> None:
    end = time.monotonic() + 60
    while daemon.metric("recorder_cursor") < sequence:
        assert time.monotonic() < end, daemon.status()
        time.sleep(0.02)


def _sent_moments(journal: Path, after: int) -> dict[int, int]:
    """Return when each event was sent, by sequence number, from the journal's own records."""
    from backupd.store.journal import Journal  # noqa: PLC0415 - the daemon has ended: only now it is read

    moments: dict[int, int] = {}
    reader = Journal(journal, writable=False)
    while entries := reader.read(after):
        for entry in entries:
            after = entry.sequence
            moments[after] = int(entry.change.event.partition("#")[2].partition("-")[0])
    reader.close()
    return moments


def _latencies(sent: dict[int, int], marks: list[tuple[int, int]], base: int) -> list[float]:
    """Return seconds from sending to the first mark that covers an event; `base` + 1 is the first event."""
    latencies: list[float] = []
    sequences = sorted(sent)
    offset = sequences[0] - 1 - base
    places = iter(marks)
    moment, through = next(places)
    for sequence in sequences:
        while through + offset < sequence:
            moment, through = next(places)
        latencies.append((moment - sent[sequence]) / 1e9)
    return latencies
