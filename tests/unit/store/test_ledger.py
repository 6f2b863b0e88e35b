"""Ledger: each fact is durable when its method returns, batches are all or nothing."""

from __future__ import annotations

import errno
import sqlite3
import threading
from datetime import timedelta

import msgspec
import pytest

from backupd.clock import MICROSECOND
from backupd.errors import BackupPathRefused
from backupd.items import ItemKey, Kind
from backupd.store.ledger import Gap, Ledger, SetAttribute, Waiting
from backupd.store.ledger_tables import KeptJobs, KeptLogs, KeptNotifications, Remembered
from tests.unit.store.making import START, failing, message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite"


@pytest.fixture
def ledger(path):
    made = Ledger(path)
    yield made
    made.close()


def reopened(ledger: Ledger, path) -> Ledger:
    """Return the ledger as another process sees it now."""
    return Ledger(path, writable=False)


def test_attributes(ledger, path):
    """Attributes are set, replaced and unset, with any JSON as value."""
    ledger.set_attribute("server", "one", "ZxBackup_DestPath", "/a")
    ledger.set_attribute("global", "", "ZxBackup_DataRetentionDays", 30)
    ledger.set_attribute("server", "one", "ZxBackup_DestPath", {"b": [None, True]})
    assert reopened(ledger, path).attributes() == [
        SetAttribute("global", "", "ZxBackup_DataRetentionDays", 30),
        SetAttribute("server", "one", "ZxBackup_DestPath", {"b": [None, True]}),
    ]
    assert ledger.unset_attribute("global", "", "ZxBackup_DataRetentionDays") is True
    assert ledger.unset_attribute("global", "", "ZxBackup_DataRetentionDays") is False
    assert len(ledger.attributes()) == 1


def test_operations(ledger, path):
    """Operations keep their place while they change, and come in order of submission."""
    for number in range(5):
        ledger.put_operation(f"u{number}", "queued", b'{"n":%d}' % number)
    ledger.put_operation("u1", "successful", b'{"n":9}')
    found = reopened(ledger, path).operations()
    assert [one.uuid for one in found] == ["u0", "u1", "u2", "u3", "u4"]
    assert [one.uuid for one in ledger.operations("queued")] == ["u0", "u2", "u3", "u4"]
    assert [one.uuid for one in ledger.operations(limit=2)] == ["u3", "u4"]
    assert ledger.operation("u1").facts == b'{"n":9}'
    assert ledger.operation("none") is None
    ledger.remove_operations(["u0", "u4"])
    ledger.put_operation("u5", "queued", b"{}")
    assert [one.uuid for one in ledger.operations()] == ["u1", "u2", "u3", "u5"]


def test_gaps(ledger, path):
    """A gap is opened once per account and reason, widened, listed until closed, and then kept as closed."""
    gap = ledger.open_gap("alice", "sequence_hole", "5 to 7", START)
    widened = ledger.open_gap("alice", "sequence_hole", "9", START + timedelta(1))
    assert widened == Gap(gap.id, "alice", "sequence_hole", "9", START, START + timedelta(1), None)
    again = ledger.open_gap("alice", "sequence_hole", "9", START)
    assert again == msgspec.structs.replace(widened, latest=widened.latest + MICROSECOND), "it always grows"
    widened = again
    other = ledger.open_gap("", "session_lost", "", START)
    assert reopened(ledger, path).gaps() == [widened, other]
    assert ledger.gaps(account="alice") == [widened]
    assert ledger.gaps(account="") == [other]
    assert ledger.close_gap(gap.id, START) is True
    assert ledger.close_gap(gap.id, START) is False
    assert ledger.gaps() == [other]
    assert ledger.gaps(is_open=False) == [msgspec.structs.replace(widened, closed=START)]
    assert len(ledger.gaps(is_open=None)) == 2
    assert ledger.open_gap("alice", "sequence_hole", "again", START).id not in (gap.id, other.id)


def waiting(item: str, sequence: int, seconds: int) -> Waiting:
    return Waiting(message(item), sequence, b'{"x":1}', 2, START + timedelta(seconds=seconds), "offline")


def test_waiting(ledger, path):
    """Of one item the newest change waits; due ones come longest due first; all come in pages."""
    for one in (waiting("1", 5, 30), waiting("2", 6, 10), waiting("3", 7, 20), waiting("1", 8, 5)):
        ledger.put_waiting(one)
    again = reopened(ledger, path)
    assert again.waiting_count() == 3
    assert again.waiting(message("1")) == waiting("1", 8, 5)
    assert again.waiting(message("9")) is None
    due = again.waiting_due(START + timedelta(seconds=10), limit=10)
    assert [one.key.item for one in due] == ["1", "2"]
    assert [one.key.item for one in again.waiting_due(START + timedelta(1), limit=1)] == ["1"]
    page = again.waiting_after(None, limit=2)
    assert [one.key.item for one in page + again.waiting_after(page[-1].key, limit=2)] == ["1", "2", "3"]
    assert ledger.remove_waiting(message("1"), 7) is False
    assert ledger.remove_waiting(message("1"), 8) is True
    assert ledger.waiting_count() == 2


def test_waiting_is_hastened(ledger):
    """What would wait longer is due at the moment it is hastened to; what was due keeps its place."""
    for one in (waiting("1", 5, 30), waiting("2", 6, 1)):
        ledger.put_waiting(one)
    moment = START + timedelta(seconds=2)
    assert ledger.hasten_waiting(moment) == 1
    assert [one.key.item for one in ledger.waiting_due(moment, limit=10)] == ["2", "1"]


def test_waiting_of_the_whole_server(ledger):
    """Items without an account are paged, too."""
    key = ItemKey("", Kind.COS, "default")
    ledger.put_waiting(Waiting(key, 1, b"{}", 0, START, ""))
    assert [one.key for one in ledger.waiting_after(None, limit=5)] == [key]


def test_numbers(ledger, path):
    """Last counts are kept per source and account."""
    assert ledger.number("s", "alice") is None
    ledger.set_numbers({("s", "alice"): 5, ("s", "bob"): 6, ("t", "alice"): 7})
    ledger.set_numbers({("s", "alice"): 8})
    again = reopened(ledger, path)
    assert again.number("s", "alice") == 8
    assert again.numbers() == {("s", "alice"): 8, ("s", "bob"): 6, ("t", "alice"): 7}


def test_sessions(ledger, path):
    """A broker's session is known once it was remembered."""
    assert not ledger.has_session("mqtt://a")
    ledger.remember_session("mqtt://a", START)
    assert reopened(ledger, path).has_session("mqtt://a")
    assert not ledger.has_session("mqtt://b")


def test_restored(ledger, path):
    """What was put back is known by account, item, transaction and target."""
    ledger.set_restored("alice", "5", 7, "alice", "99")
    again = reopened(ledger, path)
    assert again.restored("alice", "5", 7, "alice") == "99"
    assert again.restored("alice", "5", 8, "alice") is None
    assert again.restored("alice", "5", 7, "bob") is None


def test_restoring(ledger, path):
    """A restore that began is known until its end is told; the first one's basis counts."""
    ledger.set_restoring("alice", "5", 7, "alice", 12)
    ledger.set_restoring("alice", "5", 7, "alice", 20)
    assert reopened(ledger, path).restoring("alice", "5", 7, "alice") == 12
    assert ledger.restoring("alice", "5", 8, "alice") is None
    ledger.set_restored("alice", "5", 7, "alice", "99")
    assert reopened(ledger, path).restoring("alice", "5", 7, "alice") is None


OPERATING = ("jobs", "notifications", "operation_log")
KEEPING = ("holds", "suspensions", "condemned", "remembered")


@pytest.mark.parametrize(
    ("version", "lacks"),
    [
        (1, ("restoring", *OPERATING, *KEEPING)),
        (2, (*OPERATING, *KEEPING)),
        (3, KEEPING),
    ],
)
def test_older_versions_are_upgraded(ledger, path, version, lacks):
    """A ledger of an older version gets the tables that it lacks and keeps what it holds."""
    ledger.remember_session("mqtt://a", START)
    ledger.close()
    with sqlite3.connect(path) as connection:
        for table in lacks:
            connection.execute(f"DROP TABLE {table}")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    upgraded = Ledger(path)
    upgraded.set_restoring("alice", "5", 7, "alice", 12)
    KeptJobs(upgraded).keep({"SmartScan": b"{}"})
    assert KeptNotifications(upgraded).add(b"{}", pending=True) == 1
    KeptLogs(upgraded).add("op", {0: b"{}"})
    Remembered(upgraded).keep("clock", b"{}")
    assert Remembered(upgraded).get("clock") == b"{}"
    assert upgraded.rows("SELECT * FROM holds, suspensions, condemned") == []
    assert upgraded.restoring("alice", "5", 7, "alice") == 12
    assert upgraded.has_session("mqtt://a")
    upgraded.close()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchall() == [(4,)]


def test_jobs_are_kept_by_name(ledger, path):
    """Each job's newest facts survive; jobs kept together are kept whole."""
    KeptJobs(ledger).keep({"SmartScan": b'{"missed":0}', "purge": b"{}"})
    KeptJobs(ledger).keep({"SmartScan": b'{"missed":1}'})
    assert KeptJobs(reopened(ledger, path)).all() == {"SmartScan": b'{"missed":1}', "purge": b"{}"}


def test_notifications_are_numbered_changed_and_forgotten(ledger, path):
    """Numbers grow; pending ones are found until they went; only the newest are kept."""
    kept = KeptNotifications(ledger)
    numbers = [kept.add(b'{"n":%d}' % number, pending=True) for number in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    kept.change(2, b'{"n":"sent"}', pending=False)
    seen = KeptNotifications(reopened(ledger, path))
    assert [number for number, _ in seen.pending()] == [1, 3, 4, 5]
    assert seen.get(2) == b'{"n":"sent"}'
    assert [number for number, _ in kept.newest(2)] == [5, 4]
    kept.forget_all_but(3)
    assert [number for number, _ in kept.newest(10)] == [5, 4, 3]
    assert kept.get(1) is None


def test_logs_of_operations_stand_apart(ledger, path):
    """Lines come back in their order, by operation, and go with it."""
    kept = KeptLogs(ledger)
    kept.add("one", {1: b"b", 0: b"a"})
    kept.add("two", {0: b"x"})
    kept.add("one", {1: b"B"})
    assert KeptLogs(reopened(ledger, path)).of("one") == [b"a", b"B"]
    kept.forget(["one", "three"])
    assert (kept.of("one"), kept.of("two")) == ([], [b"x"])


@pytest.mark.parametrize("step", ["ledger.begin", "ledger.commit"])
def test_a_failing_disk_undoes_the_batch(ledger, path, step):
    """A batch that could not be committed left nothing, and the next succeeds."""
    ledger.set_attribute("global", "", "a", 1)

    def change() -> None:
        with ledger.batch():
            ledger.set_attribute("global", "", "a", 2)
            ledger.set_attribute("global", "", "b", 2)

    with failing(step, errno.EIO), pytest.raises(OSError, match="injected"):
        change()
    assert [one.value for one in reopened(ledger, path).attributes()] == [1]
    change()
    assert [one.value for one in ledger.attributes()] == [2, 2]


def test_a_batch_with_an_error(ledger):
    """An error inside a batch undoes all of it, also what nested calls did."""
    with pytest.raises(ZeroDivisionError), ledger.batch(), ledger.batch():
        ledger.set_attribute("global", "", "a", 1 // len([]))
    ledger.set_attribute("global", "", "b", 1)
    assert [one.name for one in ledger.attributes()] == ["b"]


def test_threads(ledger):
    """Many threads write at once and nothing is lost."""
    threads = [
        threading.Thread(target=lambda n=n: [ledger.put_operation(f"{n}-{i}", "q", b"{}") for i in range(10)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.operations()) == 80


def test_a_copy(ledger, tmp_path):
    """The copy for the daily dump is a ledger with the same facts."""
    ledger.set_attribute("global", "", "a", 1)
    ledger.copy_to(tmp_path / "copy.sqlite")
    copy = Ledger(tmp_path / "copy.sqlite", writable=False)
    assert copy.attributes() == ledger.attributes()
    copy.close()


def test_refused(path):
    """Garbage, another application's database and a newer version are refused by name."""
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(BackupPathRefused, match="can't be read"):
        Ledger(path)
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 5")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(BackupPathRefused, match="no ledger"):
        Ledger(path)
    path.unlink()
    Ledger(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(BackupPathRefused, match="version 99"):
        Ledger(path)
