"""Journal: what is appended is durable, numbered once, read in order, and damage is told and passed."""

from __future__ import annotations

import errno
import os
import resource
import threading
from contextlib import closing, contextmanager

import pytest

from backupd import durable
from backupd.errors import BackupPathRefused, CorruptJournal, SpaceExhausted
from backupd.store import segments
from backupd.store.journal import Journal
from backupd.store.segments import HEADER_BYTES
from tests.unit.store.making import failing, payloads


def read_all(journal: Journal, after: int = 0) -> tuple[list[tuple[int, str]], list[CorruptJournal]]:
    """Read to the end as the recorder does: past damage; return (sequence, item) pairs and the errors."""
    found, errors = [], []
    while True:
        try:
            entries = journal.read(after, entries_max=3)
        except CorruptJournal as error:
            if error.resume_after <= after:
                raise
            errors.append(error)
            after = error.resume_after
            continue
        if not entries:
            return found, errors
        found += [(entry.sequence, entry.change.item) for entry in entries]
        after = entries[-1].sequence


def numbered(first: int, last: int) -> list[tuple[int, str]]:
    return [(number, str(number)) for number in range(first, last + 1)]


@contextmanager
def file_size_limit(size: int):
    """Let writes beyond a file size fail after a part of them, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def no_sync(monkeypatch):
    """Leave out what costs time and concerns power cuts only."""
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_append_and_read(tmp_path):
    """Groups get consecutive numbers and come back in order, also after reopening."""
    journal = Journal(tmp_path)
    assert journal.read(0) == []
    assert journal.append(payloads(3)) == 1
    assert journal.append(payloads(2, 4)) == 4
    assert journal.append([]) == 6
    assert read_all(journal) == (numbered(1, 5), [])
    assert read_all(journal, 3) == (numbered(4, 5), [])
    journal.close()
    again = Journal(tmp_path)
    assert (again.first_sequence, again.last_sequence, again.damaged) == (1, 5, [])
    assert again.append(payloads(1, 6)) == 6
    assert read_all(again) == (numbered(1, 6), [])


def test_bounds(tmp_path):
    """A read stops at either bound, and gives at least one entry."""
    journal = Journal(tmp_path)
    journal.append(payloads(10))
    assert len(journal.read(0, entries_max=4, bytes_max=1 << 20)) == 4
    assert len(journal.read(0, entries_max=10, bytes_max=1)) == 1


def test_a_record_bigger_than_the_read_chunk(tmp_path):
    """A big record between small ones is read whole."""
    big = payloads(1, 2)[0].replace(b"INBOX", b"x" * (3 << 20))
    journal = Journal(tmp_path)
    journal.append([payloads(1)[0], big, payloads(1, 3)[0]])
    assert read_all(Journal(tmp_path, writable=False)) == (numbered(1, 3), [])


def test_what_is_no_change_is_refused(tmp_path):
    """Bytes that are no JSON object never reach the journal."""
    journal = Journal(tmp_path)
    for bad in (b"", b"[]", b"{}", b"x"):
        with pytest.raises(ValueError, match="no JSON object"):
            journal.append([payloads(1)[0], bad])
    assert journal.append(payloads(1)) == 1


def test_segments_roll_over_and_are_trimmed(tmp_path):
    """Segments stay small, numbers run through, and trimming never gives a number out again."""
    journal = Journal(tmp_path, segment_bytes_max=1000)
    for number in range(1, 41):
        journal.append(payloads(1, number))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) > 5
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert read_all(journal) == (numbered(1, 40), [])
    assert journal.trim(0, 0) == []
    assert journal.trim(40, 1 << 20) == []
    removed = journal.trim(20, 0)
    assert removed
    assert 10 < journal.first_sequence <= 21
    assert read_all(journal, journal.first_sequence - 1) == (numbered(journal.first_sequence, 40), [])
    journal.trim(40, 0)
    journal.close()
    again = Journal(tmp_path, segment_bytes_max=1000)
    assert again.append(payloads(1, 41)) == 41


def test_trim_keeps_the_newest_bytes(tmp_path):
    """At least `keep_bytes` of the newest records stay."""
    journal = Journal(tmp_path, segment_bytes_max=1000)
    for number in range(1, 41):
        journal.append(payloads(1, number))
    journal.trim(40, 2500)
    assert 2500 <= journal.size_bytes() < 2500 + 1000


def test_trimmed_entries_are_told(tmp_path):
    """Asking for what was trimmed is an error that says where to go on, never silence."""
    journal = Journal(tmp_path, segment_bytes_max=1000)
    for number in range(1, 41):
        journal.append(payloads(1, number))
    journal.trim(20, 0)
    found, errors = read_all(journal)
    assert found == numbered(journal.first_sequence, 40)
    assert [error.resume_after for error in errors] == [journal.first_sequence - 1]


def test_a_missing_segment_is_told(tmp_path):
    """A segment somebody removed is named, the others are read."""
    journal = Journal(tmp_path, segment_bytes_max=1000)
    for number in range(1, 41):
        journal.append(payloads(1, number))
    victim = sorted(tmp_path.iterdir())[3]
    following = int(sorted(tmp_path.iterdir())[4].stem)
    victim.unlink()
    journal.close()
    found, errors = read_all(Journal(tmp_path))
    assert len(errors) == 1
    assert errors[0].resume_after == following - 1
    assert [pair for pair in numbered(1, 40) if not int(victim.stem) <= pair[0] < following] == found


def test_begin_after(tmp_path):
    """A journal that lags behind what was recorded never gives those numbers out."""
    journal = Journal(tmp_path)
    journal.append(payloads(2))
    journal.begin_after(1)
    assert journal.append(payloads(1, 3)) == 3
    journal.begin_after(100)
    assert journal.append(payloads(1, 101)) == 101
    journal.close()
    again = Journal(tmp_path)
    found, errors = read_all(again)
    assert found == [*numbered(1, 3), (101, "101")]
    assert [error.resume_after for error in errors] == [100]


def test_cut_at_every_byte(tmp_path, no_sync):
    """Cut anywhere, the journal opens with the whole records before, and goes on without losing any."""
    original = tmp_path / "original"
    original.mkdir()
    journal = Journal(original)
    journal.append(payloads(2))
    journal.append(payloads(1, 3))
    content = next(original.iterdir()).read_bytes()
    descriptor = os.open(next(original.iterdir()), os.O_RDONLY)
    walked = segments.walk(descriptor, offset=HEADER_BYTES, end=len(content), expected=1)
    ends = [record.end for record in walked]
    os.close(descriptor)
    for cut in range(len(content) + 1):
        for filling in (b"", bytes(len(content) - cut)) if cut < len(content) else (b"",):
            path = tmp_path / f"{cut}-{len(filling)}"
            path.mkdir()
            (path / "00000000000000000001.journal").write_bytes(content[:cut] + filling)
            kept = sum(1 for end in ends if end <= cut)
            with closing(Journal(path, writable=False)) as reader:
                assert read_all(reader) == (numbered(1, kept), []), cut
            journal = Journal(path)
            assert journal.damaged == []
            assert journal.append(payloads(1, kept + 1)) == kept + 1
            journal.close()
            with closing(Journal(path)) as again:
                assert read_all(again) == (numbered(1, kept + 1), []), cut
            (path / "00000000000000000001.journal").unlink()


def test_every_bit_flipped(tmp_path, no_sync):
    """Each flipped bit is found and named, the other records are read, no number is used twice."""
    journal = Journal(tmp_path)
    journal.append(payloads(2))
    journal.append(payloads(1, 3))
    journal.close()
    path = tmp_path / "00000000000000000001.journal"
    content = path.read_bytes()
    for place in range(HEADER_BYTES * 8, len(content) * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        journal = Journal(tmp_path)
        found, errors = read_all(journal)
        assert len(found) == 2, place
        assert set(found) < set(numbered(1, 3)), place
        assert len(errors) == len(journal.damaged) == 1, place
        assert str(path) in str(journal.damaged[0])
        assert f"offset {errors[0].facts['offset']}" in errors[0].message
        assert path.read_bytes() == flipped, "damage is never cut"
        first = journal.append(payloads(1, 9))
        assert first > 3
        assert [pair for pair in read_all(journal)[0] if pair[0] == first] == [(first, "9")]
        journal.close()
        for extra in tmp_path.iterdir():
            extra.unlink()


def test_flipped_bits_in_the_header(tmp_path, no_sync):
    """A damaged header is told and costs no record."""
    journal = Journal(tmp_path)
    journal.append(payloads(2))
    journal.close()
    path = tmp_path / "00000000000000000001.journal"
    content = path.read_bytes()
    for place in range(HEADER_BYTES * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        journal = Journal(tmp_path)
        assert len(journal.damaged) == 1
        assert read_all(journal) == (numbered(1, 2), [])
        assert journal.append(payloads(1, 3)) == 3
        journal.close()
        path.write_bytes(content)


def test_newer_version_is_refused(tmp_path, monkeypatch):
    """A segment of a newer format is refused and not touched."""
    monkeypatch.setattr(segments, "VERSION", 2)
    Journal(tmp_path).append(payloads(1))
    monkeypatch.setattr(segments, "VERSION", 1)
    with pytest.raises(BackupPathRefused, match="version 2"):
        Journal(tmp_path)


def test_a_number_out_of_place_is_damage(tmp_path):
    """A record that checks but stands in the wrong place is not taken for the one expected there."""
    content = segments.encode_header(1) + segments.encode_records(7, payloads(1, 7))
    (tmp_path / "00000000000000000001.journal").write_bytes(content)
    found, errors = read_all(Journal(tmp_path))
    assert found == [(7, "7")]
    assert [error.resume_after for error in errors] == [6]


@pytest.mark.parametrize("step", ["journal.append", "journal.append_written"])
@pytest.mark.parametrize(("number", "raised"), [(errno.ENOSPC, SpaceExhausted), (errno.EIO, OSError)])
def test_a_failed_write_leaves_nothing(tmp_path, step, number, raised):
    """A group that could not be written is not in the journal, and the next takes its numbers and place."""
    journal = Journal(tmp_path)
    journal.append(payloads(2))
    with failing(step, number), pytest.raises(raised):
        journal.append(payloads(2, 50))
    assert journal.last_sequence == 2
    assert journal.append(payloads(1, 3)) == 3
    assert len(list(tmp_path.iterdir())) == 1
    journal.close()
    assert read_all(Journal(tmp_path)) == (numbered(1, 3), [])


def test_a_write_that_stops_halfway(tmp_path):
    """A disk that fills up within a group leaves no half group behind."""
    journal = Journal(tmp_path)
    journal.append(payloads(2))
    size = next(tmp_path.iterdir()).stat().st_size
    with file_size_limit(size + 100), pytest.raises(SpaceExhausted):
        journal.append(payloads(20, 50))
    assert next(tmp_path.iterdir()).stat().st_size == size
    assert journal.append(payloads(1, 3)) == 3
    journal.close()
    assert read_all(Journal(tmp_path)) == (numbered(1, 3), [])


@pytest.mark.parametrize("before", [0, 2])
def test_a_failed_sync_is_never_trusted(tmp_path, monkeypatch, before):
    """After fdatasync failed, the group is not in the journal and the next goes to a new file."""
    journal = Journal(tmp_path)
    journal.append(payloads(before))
    inodes = {path.stat().st_ino for path in tmp_path.iterdir()}

    def fail(descriptor):
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="injected"):
            journal.append(payloads(5, 50))
        with pytest.raises(OSError, match="injected"):
            journal.append(payloads(5, 60))
    assert journal.last_sequence == before
    assert read_all(journal) == (numbered(1, before), [])
    assert journal.append(payloads(1, before + 1)) == before + 1
    newest = max(tmp_path.iterdir())
    assert newest.stat().st_ino not in inodes or before == 0
    journal.close()
    again = Journal(tmp_path)
    assert again.damaged == []
    assert read_all(again) == (numbered(1, before + 1), [])


@pytest.mark.parametrize(
    "step", ["journal.begin_segment", "journal.segment_written", "journal.segment_begun"]
)
def test_a_failed_rollover(tmp_path, step):
    """A new segment that could not be made is tried again, and no number is lost."""
    journal = Journal(tmp_path, segment_bytes_max=300)
    journal.append(payloads(1))
    journal.append(payloads(1, 2))
    with failing(step, times=2) as passed:
        for number in range(3, 8):
            try:
                journal.append(payloads(1, number))
            except SpaceExhausted:
                journal.append(payloads(1, number)) if passed.count(step) == 2 else None
    assert passed.count(step) >= 2
    journal.close()
    found, errors = read_all(Journal(tmp_path))
    assert errors == []
    assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))


def test_readers_see_only_what_is_synced(tmp_path):
    """While a group is being synced no reader gets it; once append returned every reader does."""
    journal = Journal(tmp_path)
    seen: list[list[int]] = []

    def observe(name: str) -> None:
        if name == "journal.append_written":
            seen.append([entry.sequence for entry in journal.read(0)])

    durable.observe_steps(observe)
    try:
        journal.append(payloads(2))
        journal.append(payloads(2, 3))
    finally:
        durable.observe_steps(None)
    assert seen == [[], [1, 2]]


def test_reading_while_appending(tmp_path, no_sync):
    """A reader in another thread gets every entry once, in order, over many rollovers and groups."""
    journal = Journal(tmp_path, segment_bytes_max=5000)
    found: list[int] = []

    def follow() -> None:
        while len(found) < 2000:
            found.extend(entry.sequence for entry in journal.read(found[-1] if found else 0, entries_max=70))

    thread = threading.Thread(target=follow)
    thread.start()
    writers = [
        threading.Thread(target=lambda: [journal.append(payloads(10)) for _ in range(50)]) for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    thread.join(30)
    assert found == list(range(1, 2001))


def test_a_read_only_journal_changes_nothing(tmp_path):
    """Opened for reading, a torn tail stays where it is."""
    journal = Journal(tmp_path)
    journal.append(payloads(2))
    journal.close()
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-3])
    before = path.read_bytes()
    reader = Journal(tmp_path, writable=False)
    assert read_all(reader) == (numbered(1, 1), [])
    with pytest.raises(ValueError, match="not open for writing"):
        reader.append(payloads(1))
    assert path.read_bytes() == before
