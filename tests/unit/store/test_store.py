"""Store: the order of opening, catching up after a crash, checkpoints, and what damage leaves readable."""

from __future__ import annotations

import pytest

from backupd.errors import BackupPathRefused, SpaceExhausted
from backupd.items import ItemKey, Kind
from backupd.store.layout import Layout
from backupd.store.ledger import Waiting
from backupd.store.statistics import AccountStatistics, BackupStatistics
from backupd.store.store import Store
from tests.unit.store.making import START, failing, message, opened, payloads, state


@pytest.fixture
def path(tmp_path):
    return tmp_path / "backup" / "path"


def is_exact(store: Store) -> bool:
    """Tell whether the index says what one built anew from the histories would."""
    grown = list(store.index.dump())
    store.close()
    store.layout.index.unlink()
    with opened(store.layout.root) as again:
        assert again.index_was_built
        return list(again.index.dump()) == grown


def recorded(store: Store, count: int, first: int = 1) -> None:
    """Journal and record messages without a checkpoint."""
    store.journal.append(payloads(count, first))
    for number in range(first, first + count):
        store.record(message(str(number)), [state(number, content=b"%d" % (number % 7))])


def test_checkpoint_and_reopen(path):
    """What was checkpointed is there after reopening, with the cursor, and the index is exact."""
    store = opened(path)
    recorded(store, 20)
    store.checkpoint(20)
    store.close()
    again = opened(path)
    assert again.index.cursor() == 20
    assert again.index.counts().items == {"message": 20}
    assert again.index.counts().blobs == 7
    assert is_exact(again)


def test_an_idle_checkpoint_is_cheap(path):
    """Nothing is synced where nothing was recorded; a moved cursor is kept."""
    with opened(path) as store:
        recorded(store, 1)
        store.checkpoint(1)
        with failing("none") as passed:
            store.checkpoint(1)
        assert passed == []
        store.checkpoint(5)
        assert store.index.cursor() == 5


def test_histories_ahead_of_the_index(path):
    """States recorded behind the last checkpoint are in the index after reopening."""
    store = opened(path)
    recorded(store, 5)
    store.checkpoint(5)
    recorded(store, 5, 6)
    store.close()
    again = opened(path)
    assert again.index.cursor() == 5
    assert again.index.counts().items == {"message": 10}
    assert is_exact(again)


def test_histories_behind_the_index(path):
    """States that the index kept and a power cut took from a history are taken out of the index."""
    store = opened(path)
    recorded(store, 5)
    store.journal.append(payloads(2, 5))
    history = store.layout.history(message("5")).read_bytes()
    store.record(message("5"), [state(6, content=b"lost"), state(7, deleted=True)])
    store.index.commit(5)
    store.layout.history(message("5")).write_bytes(history)
    store.layout.history(message("4")).unlink()
    store.index.commit(3)
    store.close()
    again = opened(path)
    assert again.index.item("alice", "5").transaction == 5
    assert again.index.item("alice", "4") is None
    assert state(6, content=b"lost").digest not in set(again.index.digests())
    assert is_exact(again)


def test_waiting_items_are_caught_up(path):
    """An item whose change waited longer than the cursor stood is caught up, too."""
    store = opened(path)
    recorded(store, 3)
    store.checkpoint(3)
    store.ledger.put_waiting(Waiting(message("3"), 3, b"{}", 1, START, "offline"))
    store.histories.append(message("3"), [state(4)])
    store.close()
    again = opened(path)
    assert again.index.item("alice", "3").transaction == 4


@pytest.mark.parametrize(
    "step", ["index.begin", "index.commit", "checkpoint.sync", "file_system.sync", "checkpoint.synced"]
)
def test_a_checkpoint_that_fails(path, step):
    """After a failed checkpoint the cursor stands, and the next one makes the index whole by itself."""
    store = opened(path)
    recorded(store, 3)
    store.checkpoint(3)

    def go_on() -> None:
        recorded(store, 3, 4)
        store.checkpoint(6)

    with failing(step), pytest.raises((SpaceExhausted, OSError)):
        go_on()
    assert store.index.cursor() == 3
    for number in range(4, 7):
        if store.histories.last(message(str(number)))[0] is None:
            store.record(message(str(number)), [state(number, content=b"%d" % (number % 7))])
    store.checkpoint(6)
    assert store.index.counts().items == {"message": 6}
    assert is_exact(store)


def test_damaged_index_is_built_anew(path):
    """An index that is garbage, of another version, or marked as damaged, is built from the histories."""
    store = opened(path)
    recorded(store, 10)
    store.checkpoint(10)
    whole = list(store.index.dump())
    store.close()
    index = path / "index.sqlite"
    good = index.read_bytes()

    def marked() -> None:
        index.write_bytes(good)
        (path / ".index.sqlite.damaged").touch()

    for damage in (
        lambda: index.write_bytes(b"garbage" * 1000),
        lambda: index.write_bytes(good[:100]),
        lambda: index.write_bytes(b""),
        lambda: index.write_bytes(good[:60] + (99).to_bytes(4, "big") + good[64:]),
        marked,
    ):
        for side in ("-wal", "-shm"):
            (path / f"index.sqlite{side}").unlink(missing_ok=True)
        damage()
        with pytest.raises(BackupPathRefused, match="start the daemon once"):
            opened(path, writable=False)
        with opened(path) as again:
            assert again.index_was_built
            assert list(again.index.dump()) == whole
        with opened(path) as again:
            assert not again.index_was_built


def test_a_built_index_replays_the_whole_journal(path):
    """The cursor of an index built anew stands before the oldest journal entry."""
    store = opened(path, segment_bytes_max=1000)
    for number in range(1, 31):
        recorded(store, 1, number)
    store.checkpoint(30)
    store.journal.trim(15, 0)
    first = store.journal.first_sequence
    store.close()
    (path / "index.sqlite").unlink()
    with opened(path) as again:
        assert again.index.cursor() == first - 1 > 0


def test_a_lost_journal_gives_no_number_twice(path):
    """Where the journal was removed, new changes get numbers above everything recorded."""
    store = opened(path)
    recorded(store, 10)
    store.checkpoint(10)
    store.close()
    for segment in (path / "journal").iterdir():
        segment.unlink()
    with opened(path) as again:
        assert again.journal.append(payloads(1)) == 11


def test_damaged_histories_are_listed_and_the_rest_goes_on(path):
    """A damaged history is named; its readable states and all others are indexed."""
    store = opened(path)
    recorded(store, 5)
    store.record(message("3"), [state(6), state(7)])
    store.checkpoint(7)
    store.close()
    victim = Layout(path).history(message("3"))
    content = victim.read_bytes()
    victim.write_bytes(content.replace(b'{"transaction":6', b'#"transaction":6'))
    Layout(path).history(message("4")).write_bytes(b"nonsense")
    (path / "index.sqlite").unlink()
    with opened(path) as again:
        assert len(again.damaged) == 2
        assert any(str(victim) in one and "offset" in one for one in again.damaged)
        assert again.index.counts().items == {"message": 4}
        assert again.index.item("alice", "3").transaction == 7


def test_damaged_journal_is_listed(path):
    """A journal record damaged before the tail is named at open, and opening succeeds."""
    store = opened(path)
    store.journal.append(payloads(3))
    store.close()
    segment = next((path / "journal").iterdir())
    segment.write_bytes(segment.read_bytes().replace(b'"item":"2"', b'"item":"9"'))
    with opened(path) as again:
        assert len(again.damaged) == 1
        assert str(segment) in again.damaged[0]


def test_damage_that_the_recorder_has_passed_is_no_alarm(path):
    """What was recorded before its journal record was damaged is not named at open."""
    with opened(path) as store:
        recorded(store, 20)
        store.checkpoint(20)
        (segment,) = store.layout.journal.iterdir()
    content = bytearray(segment.read_bytes())
    content[100] ^= 0xFF
    segment.write_bytes(content)
    with opened(path) as again:
        assert len(again.journal.damaged) == 1
        assert again.damaged == []


def test_reading_beside_a_daemon(path):
    """A reader sees what was committed while the writer goes on, and changes nothing."""
    with opened(path) as store:
        recorded(store, 3)
        store.checkpoint(3)
        with opened(path, writable=False) as reader:
            recorded(store, 3, 4)
            assert reader.index.counts().items == {"message": 3}
            store.checkpoint(6)
            assert reader.index.counts().items == {"message": 6}
            assert reader.histories.read(message("2"))[0].transaction == 2
            assert reader.ledger.waiting_count() == 0


def test_leftovers_are_removed_at_open(path):
    """What a dead process staged is gone after opening for writing."""
    opened(path).close()
    (path / ".staged").mkdir(exist_ok=True)
    (path / ".staged" / "1-1.1").write_bytes(b"x")
    opened(path, writable=False).close()
    assert (path / ".staged" / "1-1.1").exists()
    opened(path).close()
    assert not (path / ".staged" / "1-1.1").exists()


def test_space(path):
    """Below the threshold there is no space for anything new."""
    with opened(path, space_threshold_bytes=1) as store:
        assert store.free_bytes() > 0
        store.check_space()
        store.space_threshold_bytes = 1 << 62
        with pytest.raises(SpaceExhausted, match="less than"):
            store.check_space()


@pytest.mark.parametrize("count", [1, 30])
def test_statistics(path, count):
    """Statistics come back as written, singly and in groups; missing or damaged ones are empty."""
    with opened(path) as store:
        statistics = store.statistics
        assert statistics.account("nobody") == AccountStatistics()
        assert statistics.backup() == BackupStatistics()
        written = {f"a{n}": AccountStatistics(cursor=f"c{n}", last_scan=START) for n in range(count)}
        statistics.write_accounts(written)
        statistics.write_backup(BackupStatistics(first_run=START, items={"message": 3}))
        statistics.write_account_backups({"a0": BackupStatistics(blobs=4)})
        assert {account: statistics.account(account) for account in written} == written
        assert statistics.backup().items == {"message": 3}
        assert statistics.account_backup("a0").blobs == 4
        store.layout.account_statistics("a0").write_bytes(b"{")
        assert statistics.account("a0") == AccountStatistics()
        assert list(store.histories.keys()) == []


def test_every_kind_is_built(path):
    """Accounts, directory entries, folders and documents survive a build of the index with their kinds."""
    store = opened(path)
    keys = [
        ItemKey("alice", Kind.ACCOUNT, "alice"),
        ItemKey("alice", Kind.FOLDER, "7"),
        ItemKey("alice", Kind.DOCUMENT, "0192f3c4-6d4e-7c41-a5b8-3f0e8a9b7c1d"),
        ItemKey("ü" * 300, Kind.ACCOUNT, "ü" * 300),
        ItemKey("ü" * 300, Kind.MESSAGE, "5"),
        ItemKey("", Kind.DOMAIN, "a.example"),
        ItemKey("", Kind.COS, "a.example"),
        ItemKey("", Kind.MAILING_LIST, "all@a.example"),
    ]
    for number, key in enumerate(keys, 1):
        item = key.item if len(key.item) > 200 else ""
        store.record(key, [state(number, key.kind, item=item)])
    store.checkpoint(0)
    assert sorted(store.histories.keys()) == sorted(keys)
    assert is_exact(store)


def test_a_state_that_only_reached_the_history_is_not_skipped(path):
    """What a failed write left in a history is in the index before the item's next state is."""
    with opened(path) as store:
        with failing("history.appended"), pytest.raises((OSError, SpaceExhausted)):
            store.record(message("1"), [state(1, content=b"first")])
        store.index.rollback()
        store.record(message("1"), [state(2, content=b"second")])
        store.checkpoint(2)
        assert store.index.counts().states == 2
        assert is_exact(store)
