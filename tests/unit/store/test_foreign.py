"""A Backup Path that somebody hostile made: nothing outside is read, nothing waits, and all is told."""

from __future__ import annotations

import os
import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupd.clock import SystemClock
from backupd.errors import BackupPathRefused, BlobMissing, CorruptBlob, UsageError, VolumeError
from backupd.items import ItemKey, Kind, digest_of, file_name_of
from backupd.states import ChangeType, Origin, State
from backupd.store import foreign_states, history_format, layout
from backupd.store.foreign import ForeignPath, FoundItem
from backupd.store.store import Store

LATE = datetime(2030, 1, 1, tzinfo=UTC)
ACCOUNT = "acc"


def state(number: int = 1, kind: Kind = Kind.MESSAGE, **more: Any) -> State:
    told: dict[str, Any] = {"metadata": {"folder": "INBOX", "flags": []}}
    return State(
        transaction=number,
        kind=kind,
        start=datetime(2026, 1, number, tzinfo=UTC),
        change=ChangeType.CREATED,
        origin=Origin.SMARTSCAN,
        **told | more,
    )


class Hostile:
    """A Backup Path made by hand, and what reading it told."""

    def __init__(self, place: Path) -> None:
        self.own = place / "own"
        self.own.mkdir()
        self.root = place / "theirs"
        Store.open(self.root, server_id="theirs", server_name="t", clock=SystemClock()).close()
        self.write(
            ItemKey(ACCOUNT, Kind.ACCOUNT, ACCOUNT), state(kind=Kind.ACCOUNT, metadata={"name": "a@b"})
        )
        self.told: list[tuple[str, str]] = []

    def path(self, key: ItemKey) -> Path:
        directory, name = layout.history_place(key)
        (self.root / directory).mkdir(parents=True, exist_ok=True)
        return self.root / directory / name

    def item(self, name: str = "1") -> Path:
        return self.path(ItemKey(ACCOUNT, Kind.MESSAGE, name))

    def write(self, key: ItemKey, *states: State) -> None:
        self.path(key).write_bytes(history_format.encode_history(states))

    def open(self) -> ForeignPath:
        return ForeignPath(self.root, self.own)

    def items(self) -> list[FoundItem]:
        self.told.clear()
        return list(self.open().items(ACCOUNT, LATE, lambda path, why: self.told.append((path, why))))


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    return Hostile(tmp_path)


def test_a_state_is_the_one_of_the_moment(hostile: Hostile) -> None:
    """Between states, before the first, and after a deletion."""
    key = ItemKey(ACCOUNT, Kind.MESSAGE, "7")
    hostile.write(key, state(1), state(3, metadata={"folder": "Sent"}), state(5, deleted=True))
    source = hostile.open()

    def at(day: int) -> list[tuple[int, bool]]:
        found = source.items(ACCOUNT, datetime(2026, 1, day, 12, tzinfo=UTC), pytest.fail)
        return [(one.state.transaction, one.state.deleted) for one in found]

    assert (at(1), at(2), at(3), at(9)) == ([(1, False)], [(1, False)], [(3, False)], [(5, True)])
    assert list(source.items(ACCOUNT, datetime(2025, 1, 1, tzinfo=UTC), pytest.fail)) == []
    assert [one.key.item for one in source.accounts(LATE, pytest.fail)] == [ACCOUNT]
    assert source.count(ACCOUNT) == 1


def test_what_is_no_regular_file_is_passed_and_told(hostile: Hostile, tmp_path: Path) -> None:
    """Links to files and directories, pipes, sockets: told with what they are; nothing waits."""
    secret = tmp_path / "secret"
    secret.write_bytes(history_format.encode_history([state()]))
    hostile.write(ItemKey(ACCOUNT, Kind.MESSAGE, "101"), state())
    hostile.item("201").symlink_to(secret)
    os.mkfifo(hostile.item("301"))
    os.mknod(hostile.item("401"), stat.S_IFSOCK | 0o600)
    outside = tmp_path / "outside"
    (outside / "items" / "01").mkdir(parents=True)
    (outside / "items" / "01" / "501").write_bytes(secret.read_bytes())
    (hostile.root / "accounts" / ACCOUNT / "items" / "77").symlink_to(outside / "items" / "01")
    (hostile.root / "accounts" / ACCOUNT / "drive_items").symlink_to(outside / "items")
    assert [one.key.item for one in hostile.items()] == ["101"]
    told = {path.rpartition("/")[2]: why for path, why in hostile.told}
    assert told["201"] == "it is a link: passed"
    assert told["301"] == "it is a pipe: passed"
    assert told["401"] == "it is a socket: passed"
    assert told["77"] == "it is a link: passed"
    assert "not followed" in told["drive_items"]


@pytest.mark.parametrize("name", ["accounts", f"accounts/{ACCOUNT}", f"accounts/{ACCOUNT}/items", "servers"])
def test_directories_that_are_links_are_not_entered(hostile: Hostile, tmp_path: Path, name: str) -> None:
    """Wherever on the way the link stands, nothing behind it is read."""
    hostile.write(ItemKey(ACCOUNT, Kind.MESSAGE, "1"), state())
    hostile.write(ItemKey("", Kind.COS, "c"), state(kind=Kind.COS, metadata={"name": "c"}))
    away = tmp_path / "away"
    (hostile.root / name).rename(away)
    (hostile.root / name).symlink_to(away)
    source, told = hostile.open(), []

    def strange(path: str, why: str) -> None:
        told.append((path, why))

    found = [*source.entries(Kind.COS, LATE, strange), *source.items(ACCOUNT, LATE, strange)]
    assert [one.key.kind for one in found] == [Kind.MESSAGE if name == "servers" else Kind.COS]
    assert told


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("2", Kind.MESSAGE, "belongs"),
        ("%2E%2E%2F1", Kind.MESSAGE, "belongs"),
        ("1", Kind.ACCOUNT, "does not belong"),
        ("1", Kind.COS, "does not belong"),
        ("%00", Kind.MESSAGE, "no id"),
        ("%FF", Kind.MESSAGE, "no id"),
    ],
)
def test_a_history_of_somebody_else_s_item_is_refused(
    hostile: Hostile, name: str, kind: Kind, why: str
) -> None:
    """Names that decode to another place, kinds of another place, and ids that are none."""
    place = hostile.item("1").with_name(name)
    place.write_bytes(history_format.encode_history([state(kind=kind)]))
    assert hostile.items() == []
    assert why in hostile.told[0][1]


def test_an_item_named_in_the_state_must_lie_there(hostile: Hostile) -> None:
    """A state that claims another item's id does not become that item; a cut name does become its own."""
    hostile.item("1").write_bytes(history_format.encode_history([state(item="../../etc/passwd")]))
    long = "x/" * 200
    hostile.write(ItemKey(ACCOUNT, Kind.MESSAGE, long), state(item=long))
    assert [one.key.item for one in hostile.items()] == [long]
    assert "belongs" in hostile.told[0][1]


def whole(*lines: bytes) -> bytes:
    return b"[\n" + b",\n".join(lines) + b"\n]\n"


LINE = history_format.encode_lines([state()])
LATER = history_format.encode_lines([state(2)])


@pytest.mark.parametrize(
    ("content", "transactions", "why"),
    [
        (b"", [], "no state"),
        (b"\0" * 5000, [], "no state"),
        (b"[\n" + LINE, [1], ""),
        (b"[\n" + LINE + b",\n" + LATER[:40], [1], ""),
        (b"[\n" + LINE + b",\n" + b"\0" * 4096, [1], ""),
        (whole(LINE, LATER), [2], ""),
        (whole(LINE, b"{rubbish", LATER), [2], "can't be read"),
        (whole(LATER, LINE), [2], "out of order"),
        (whole(LINE.replace(b"Z", b"")), [], "no state"),
        (whole(b"[" * 100_000 + b"]" * 100_000), [], "no state"),
        (whole(LINE.replace(b'"INBOX"', b"[" * 900 + b"]" * 900)), [], ""),
        (whole(LINE.replace(b'"flags":[]', b'"x":' + b"[" * 60 + b"]" * 60)), [], "nested"),
        (whole(LINE.replace(b'"INBOX"', b"5")), [], "no photograph"),
        (whole(LINE.replace(b'"INBOX"', b"null")), [], "no photograph"),
        (whole(LINE.replace(b'"INBOX"', b'"a\\u0000b"')), [], "names"),
        (whole(LINE.replace(b'"INBOX"', b'"a\\nb"')), [1], ""),
        (whole(LINE.replace(b'"flags":[]', b'"name":"Icon\\r"')), [1], ""),
        (whole(LINE.replace(b'"flags":[]', b'"flags":["a\\nb"]')), [], "names"),
        (whole(LINE.replace(b'"flags":[]', b'"flags":{"a":1}')), [], "no photograph"),
        (whole(LINE.replace(b'"flags":[]', b'"received":"yesterday"')), [], "no photograph"),
        (whole(LINE.replace(b'"flags":[]', b'"area":null')), [], "no photograph"),
        (whole(LINE.replace(b'"transaction":1', b'"transaction":9223372036854775808')), [], ""),
        (whole(LINE.replace(b'"kind"', b'"size":-1,"kind"')), [], "size"),
        (whole(LINE.replace(b'"kind"', b'"digest":"../../x","kind"')), [], "digest"),
    ],
)
def test_histories_of_every_bad_form(
    hostile: Hostile, content: bytes, transactions: list[int], why: str
) -> None:
    """Torn tails are left out, bad lines passed, and forms that would break a restore refused with why."""
    hostile.item().write_bytes(content)
    assert [one.state.transaction for one in hostile.items()] == transactions
    if why:
        assert why in hostile.told[0][1]
    else:
        assert bool(hostile.told) == (not transactions)


def test_ids_made_of_odd_file_names_are_ids(hostile: Hostile) -> None:
    """A contact's id is its file's name: one with a line's end in it comes in as any other."""
    hostile.item("odd\nname").write_bytes(whole(LINE))
    assert [one.key.item for one in hostile.items()] == ["odd\nname"]
    assert hostile.told == []


def test_huge_histories_end_at_a_bound(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line, and a file, without an end are told; sparse files of terabytes cost no time."""
    with hostile.item().open("wb") as file:
        file.truncate(1 << 40)
    assert hostile.items() == []
    assert "larger than" in hostile.told[0][1]
    monkeypatch.setattr(foreign_states, "HISTORY_BYTES_MAX", 100_000)
    hostile.item().write_bytes(b"[\n" + b" \n" * 100_000)
    assert hostile.items() == []
    assert "larger than" in hostile.told[0][1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(hostile: Hostile) -> None:
    """A file, a directory, and the whole path without permission."""
    hostile.write(ItemKey(ACCOUNT, Kind.MESSAGE, "1"), state())
    hostile.item("2").parent.chmod(0)
    try:
        assert len(hostile.items()) == 1
        assert "Permission denied" in hostile.told[0][1]
    finally:
        hostile.item("2").parent.chmod(0o700)


def test_maps_of_other_formats_are_refused(hostile: Hostile) -> None:
    """No map, two, a link, another server's, a newer format, no JSON, a bomb: each with its reason."""
    map_file = hostile.root / "map_theirs"
    good = msgspec.json.decode(map_file.read_bytes())

    def why() -> str:
        with pytest.raises(BackupPathRefused) as refused:
            hostile.open()
        return refused.value.message

    for content, reason in (
        (msgspec.json.encode(good | {"format": 2}), "format is 2"),
        (msgspec.json.encode(good | {"server": "other"}), "is the backup of 'other'"),
        (b"acc1,x@y,z", "no map file"),
        (b"[" * 200_000, "no map file"),
        (b"", "no map file"),
    ):
        map_file.write_bytes(content)
        assert reason in why()
    (hostile.root / "map_second").write_bytes(b"{}")
    assert "2 map files" in why()
    (hostile.root / "map_second").unlink()
    map_file.rename(hostile.root / "aside")
    map_file.symlink_to(hostile.root / "aside")
    assert "it is a link" in why()


def test_blobs_are_believed_in_nothing(hostile: Hostile, tmp_path: Path) -> None:
    """Links and pipes are refused at once; bombs end at the recorded size, other contents at their digest."""
    source = hostile.open()

    def place(content: bytes, blob: bytes | None = None) -> str:
        digest = digest_of(content)
        path = hostile.root / layout.blob_name(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        if blob is not None:
            path.write_bytes(blob)
        return digest

    with source.blobs.open(place(b"x" * 5000, zstandard.compress(b"x" * 5000)), bytes_max=5000) as file:
        assert file.read() == b"x" * 5000
    zeros = bytes(50 << 20)
    bomb = place(zeros, zstandard.compress(zeros))
    with pytest.raises(CorruptBlob, match="at most 100"):
        source.blobs.open(bomb, bytes_max=100)
    with pytest.raises(VolumeError, match="no room"):
        source.blobs.open(bomb, bytes_max=1 << 60)
    with source.blobs.open(place(b"good", b"evil"), bytes_max=4) as file, pytest.raises(CorruptBlob):
        file.read()
    for number, make in enumerate((os.mkfifo, lambda path: path.symlink_to("/etc/hostname"))):
        digest = place(b"strange %d" % number)
        make(hostile.root / layout.blob_name(digest))
        with pytest.raises(VolumeError, match=r"link|pipe"):
            source.blobs.open(digest)
    with pytest.raises(BlobMissing):
        source.blobs.open(digest_of(b"nowhere"))
    with pytest.raises(CorruptBlob):
        source.blobs.open("../../etc/passwd")
    shutil.rmtree(hostile.root / "items")
    (hostile.root / "items").symlink_to(tmp_path)
    with pytest.raises(VolumeError):
        source.blobs.open(bomb)


def test_a_path_that_changes_while_it_is_read(hostile: Hostile) -> None:
    """Histories and directories that go, come and turn into links meanwhile stop nothing."""
    for number in range(300):
        hostile.write(ItemKey(ACCOUNT, Kind.MESSAGE, str(number)), state())
    found: list[str] = []
    for one in hostile.open().items(ACCOUNT, LATE, lambda *told: hostile.told.append(told)):
        found.append(one.key.item)
        if len(found) == 5:
            # The rest of this directory, and all of another, go while their names are at hand.
            for path in hostile.item("50").parent.iterdir():
                path.unlink()
            shutil.rmtree(hostile.item("60").parent)
            hostile.item("99").unlink()
            hostile.item("99").symlink_to("/etc/hostname")
    assert len(found) == 300 - 3 - 3 - 1


@pytest.mark.parametrize("path", ["", "accounts", "../own", "../own/below/..", "."])
def test_our_own_path_under_any_name_is_refused(hostile: Hostile, path: str) -> None:
    """In it, around it, through `..` and links."""
    (hostile.own / "below").mkdir()
    (hostile.own / "accounts").mkdir()
    link = hostile.own.parent / "link"
    link.symlink_to(hostile.own)
    for base in (link, hostile.own):
        with pytest.raises(UsageError):
            ForeignPath(base / path, hostile.own)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary().map(repr),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=8,
)
KEYS = ["transaction", "kind", "item", "start-date", "deleted", "digest", "size", "metadata", "lacking"]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    return Hostile(tmp_path_factory.mktemp("fuzzed"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changed=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3),
    metadata=st.dictionaries(
        st.sampled_from(["folder", "area", "flags", "tags", "received", "name"]), JSON, max_size=3
    ),
    cut=st.integers(0, 400),
    noise=st.binary(max_size=30),
)
def test_any_bytes_give_a_usable_state_or_a_reason(
    fuzzed: Hostile, changed: dict[str, Any], metadata: dict[str, Any], cut: int, noise: bytes
) -> None:
    """Whatever stands in a history, reading it raises nothing, and what comes out can be acted upon."""
    good = msgspec.json.decode(history_format.encode_lines([state()]))
    line = msgspec.json.encode(good | {"metadata": good["metadata"] | metadata} | changed)
    content = whole(line)
    fuzzed.item().write_bytes(content[:cut] + noise + content[cut:])
    for one in fuzzed.items():
        assert isinstance(one.state.metadata.get("folder", ""), str)
        assert all(isinstance(flag, str) for flag in one.state.metadata.get("flags", ()))
        assert 0 < one.state.transaction < 2**63
        assert file_name_of(one.key.item) == "1"


def test_nothing_is_written(hostile: Hostile) -> None:
    """Reading everything leaves the directory as it was, to the times of its files."""
    hostile.write(ItemKey(ACCOUNT, Kind.MESSAGE, "1"), state())

    def seen() -> dict[str, tuple[int, int]]:
        return {str(one): (one.lstat().st_mtime_ns, one.lstat().st_ino) for one in hostile.root.rglob("*")}

    before = seen()
    hostile.items()
    list(hostile.open().accounts(LATE, pytest.fail))
    assert seen() == before
