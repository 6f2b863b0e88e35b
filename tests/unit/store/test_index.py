"""Index: exact (grown equals built anew), transactional, and right in every answer."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.clock import MICROSECOND
from backupd.errors import SpaceExhausted
from backupd.items import Area, ItemKey, Kind, digest_of
from backupd.states import State, state_at
from backupd.store import index as index_file
from backupd.store.index import Index, IndexUnusable
from backupd.store.index_search import Search
from tests.unit.store.making import START, failing, message, state


@pytest.fixture
def index(tmp_path):
    made = fresh(tmp_path)
    yield made
    made.close()


def fresh(root) -> Index:
    index_file.build(root / "index.sqlite", [], 0)
    return Index(root / "index.sqlite")


RECORDINGS = st.lists(
    st.tuples(
        st.sampled_from(["alice", "bob", ""]),
        st.sampled_from([Kind.MESSAGE, Kind.FOLDER, Kind.DOCUMENT]),
        st.sampled_from(["1", "2", "3"]),
        st.integers(1, 3),
        st.booleans(),
        st.sampled_from([None, b"a", b"b", b"c"]),
        st.sampled_from(["commit", "rollback", "", "", "forget"]),
    ),
    max_size=30,
)


@given(RECORDINGS)
@settings(max_examples=60, deadline=None)
def test_grown_equals_built(tmp_path_factory, recordings):
    """After any recordings, commits, rollbacks and forgetting, the index is what its histories say."""
    root = tmp_path_factory.mktemp("i")
    index = fresh(root)
    committed: dict[ItemKey, list[State]] = {}
    current: dict[ItemKey, list[State]] = {}
    transaction = 0
    for account, kind, item, count, deleted, content, then in recordings:
        key = ItemKey(account, kind, item)
        new = []
        for _ in range(count):
            transaction += 1
            subject = f"{transaction % 3}"
            metadata: dict[str, object] = {"subject": subject, "folder": subject, "sender": "x@y.example"}
            if transaction % 2:
                metadata["flags"] = [subject]
            size = {"content": content} if content is not None else {}
            new.append(state(transaction, kind, deleted=deleted, metadata=metadata, **size))
        current[key] = [*current.get(key, []), *new]
        index.record(key, new)
        index.record(key, current[key])
        if then == "forget":
            index.forget(key)
            del current[key]
        elif then == "commit":
            index.commit(transaction)
            committed = dict(current)
        elif then == "rollback":
            index.rollback()
            current = dict(committed)
    index.commit(transaction)
    grown = list(index.dump())
    counts = index.counts()
    assert_past_is_told(index, current)
    index.close()
    index_file.build(root / "index.sqlite", current.items(), transaction)
    built = Index(root / "index.sqlite")
    assert list(built.dump()) == grown
    live = sum(not states[-1].deleted for states in current.values())
    assert sum(counts.items.values()) == live
    assert sum(counts.deleted.values()) == len(current) - live
    assert counts.states == sum(len(states) for states in current.values())
    digests = {one.digest: one.size for states in current.values() for one in states if one.digest}
    assert (counts.blobs, counts.blob_bytes) == (len(digests), sum(size or 0 for size in digests.values()))
    assert built.highest_transaction() == max((s[-1].transaction for s in current.values()), default=0)
    built.close()


def assert_past_is_told(index: Index, histories: dict[ItemKey, list[State]]) -> None:
    """Compare every item at every moment at which anything changed, and beside it, with its history."""
    moments = {each.start for history in histories.values() for each in history}
    for when in sorted(moments | {moment - MICROSECOND for moment in moments}):
        for account in {key.account for key in histories}:
            wanted = {
                key: at
                for key, history in histories.items()
                if key.account == account and (at := state_at(history, when)) is not None
            }
            found = {item.key: item for item in index.items_at(account, when)}
            assert found.keys() == wanted.keys()
            for key, item in found.items():
                at = wanted[key]
                told = (item.transaction, item.deleted, item.metadata, item.digest, item.size, item.last)
                assert told == (at.transaction, at.deleted, at.metadata, at.digest, at.size, at.start)


def test_an_item(index):
    """A known item says what its last state does, and since when it is known."""
    first = state(3, content=b"one")
    last = state(9, content=b"two", deleted=True, lacking=("metadata", "content"))
    index.record(message(), [first])
    index.record(message(), [last])
    index.commit(9)
    known = index.item("alice", "2057")
    assert known.key == message()
    assert (known.transaction, known.deleted, known.lacking) == (9, True, ("metadata", "content"))
    assert (known.digest, known.size, known.metadata) == (last.digest, 3, last.metadata)
    assert (known.first, known.last, known.deleted_at) == (first.start, last.start, last.start)
    assert index.item("alice", "2057", Kind.FOLDER) is None
    assert index.item("bob", "2057") is None
    assert index.blob_references(first.digest) == [message()]
    assert last.digest in set(index.digests())
    assert digest_of(b"three") not in set(index.digests())


def test_what_is_not_committed_is_seen_by_the_recorder_alone(index):
    """The recording thread reads its own transaction, another thread what was committed, until commit."""
    index.record(message("1"), [state(1)])
    index.commit(1)
    index.record(message("2"), [state(2)])
    seen: list[int] = []
    look = lambda: seen.append(sum(1 for _ in index.items("alice")))  # noqa: E731 - two callers
    other = threading.Thread(target=look)
    other.start()
    other.join()
    look()
    for _ in index.items("alice"):
        break
    index.commit(2)
    other = threading.Thread(target=look)
    other.start()
    other.join()
    assert seen == [1, 2, 2]


@pytest.mark.parametrize("step", ["index.begin", "index.commit"])
def test_a_failed_commit(index, step):
    """What could not be committed is rolled back and told as stale; recording it again succeeds."""
    with failing(step), pytest.raises((SpaceExhausted, OSError)):
        _record_and_commit(index)
    assert index.cursor() == 0
    assert index.item("alice", "2057") is None
    assert index.stale <= {message()}
    _record_and_commit(index)
    assert index.cursor() == 1
    assert index.counts().items == {"message": 1}


def _record_and_commit(index: Index) -> None:
    index.record(message(), [state(1)])
    index.commit(1)


def test_items_by_scope(index):
    """A scope selects by area and folder, and always the folders; an empty one selects nothing."""
    rows = [
        ("1", Kind.MESSAGE, "INBOX"),
        ("2", Kind.MESSAGE, "Sent"),
        ("3", Kind.CONTACT, "INBOX"),
        ("4", Kind.CONTACT_GROUP, "INBOX"),
        ("5", Kind.FOLDER, "Sent"),
    ]
    for number, (item, kind, folder) in enumerate(rows, 1):
        index.record(ItemKey("alice", kind, item), [state(number, kind, metadata={"folder": folder})])
    index.record(message("6"), [state(6, deleted=True)])
    index.commit(0)

    def found(**more) -> str:
        return "".join(known.item for known in index.items("alice", **more))

    assert found() == "12345"
    assert found(deleted=None) == "123456"
    assert found(deleted=True) == "6"
    assert found(scope=frozenset()) == ""
    assert found(scope=frozenset({(Area.MAIL, "INBOX")})) == "15"
    assert found(scope=frozenset({(Area.CONTACTS, "INBOX")})) == "345"
    assert found(scope=frozenset({(Area.MAIL, "INBOX"), (Area.MAIL, "Sent")})) == "125"
    assert index.account_counts("alice")[1] == {"message": 1}


def test_items_of_are_what_item_finds_one_by_one(index):
    """Many ids at once: deleted items too, of several kinds under one id the live one, nobody else's."""
    for number in range(1, 1204):
        index.record(message(f"{number:05}"), [state(number, deleted=number % 3 == 0)])
    index.record(ItemKey("alice", Kind.CONTACT, "00003"), [state(2000, Kind.CONTACT)])
    index.record(ItemKey("alice", Kind.DOCUMENT, "00004"), [state(2001, Kind.DOCUMENT, deleted=True)])
    index.record(ItemKey("bob", Kind.MESSAGE, "99999"), [state(2002)])
    index.commit(0)
    asked = [*(f"{number:05}" for number in range(1, 1203)), "99999", "nobody"]
    found = {known.item: known for known in index.items_of("alice", asked)}
    assert found == {item: known for item in asked if (known := index.item("alice", item)) is not None}
    assert len(found) == 1202
    assert found["00003"].kind is Kind.CONTACT
    assert found["00004"].kind is Kind.MESSAGE
    assert index.items_of("alice", []) == []


def test_many_items_come_in_pages_and_once(index):
    """Thousands of items are yielded once each and in order, also while others are recorded."""
    for number in range(1, 2502):
        index.record(message(f"{number:05}"), [state(number)])
    index.commit(1)
    found = []
    for known in index.items("alice"):
        if len(found) == 10:
            index.record(message("00000"), [state(9000)])
            index.record(message("00001"), [state(9001)])
            index.commit(2)
        found.append(known.item)
    assert found == [f"{number:05}" for number in range(1, 2502)]


def test_accounts(index):
    """An account is found by id or address, in any case, the live one before the deleted."""
    for number, (account, name, deleted) in enumerate(
        [("a1", "alice@x.example", True), ("a2", "Alice@x.example", False), ("b", "bob@x.example", True)], 1
    ):
        key = ItemKey(account, Kind.ACCOUNT, account)
        index.record(key, [state(number, Kind.ACCOUNT, metadata={"name": name}, deleted=deleted)])
    index.record(message("c"), [state(4, metadata={"name": "bob@x.example"})])
    index.commit(0)
    assert index.find_account("a1").item == "a1"
    assert index.find_account("alice@X.example").item == "a2"
    assert index.find_account("bob@x.example").item == "b"
    assert index.find_account("carol@x.example") is None
    assert [known.item for known in index.accounts()] == ["a2"]
    assert {known.item for known in index.accounts(deleted=None)} == {"a1", "a2", "b"}


def test_entries(index):
    """Domains, COS and mailing lists are told apart, also with the same id."""
    for number, kind in enumerate([Kind.DOMAIN, Kind.COS, Kind.MAILING_LIST], 1):
        index.record(ItemKey("", kind, "x"), [state(number, kind, deleted=kind is Kind.COS)])
    index.commit(0)
    assert [known.kind for known in index.entries(Kind.DOMAIN)] == [Kind.DOMAIN]
    assert index.entries(Kind.COS) == []
    assert len(index.entries(Kind.COS, deleted=True)) == 1


def test_search(index):
    """Search takes text in subject, name or sender as it is written, times, kind and deletion."""
    rows = [
        (Kind.MESSAGE, {"subject": "Ünïcode 100%", "sender": "x@y.example"}, False),
        (Kind.DOCUMENT, {"name": "plan_v1.odt"}, False),
        (Kind.MESSAGE, {"subject": "other", "sender": "boss@y.example"}, True),
        (Kind.APPOINTMENT, {"summary": "Plan"}, False),
        (Kind.MESSAGE, {"subject": ["odd"], "folder": 5, "sender": None}, False),
    ]
    for number, (kind, metadata, deleted) in enumerate(rows, 1):
        key = ItemKey("alice", kind, str(number))
        index.record(key, [state(number, kind, metadata=metadata, deleted=deleted)])
    index.commit(0)

    def found(**more) -> str:
        return "".join(known.item for known in index.search("alice", Search(**more)))

    assert found() == "54321"
    assert found(limit=2) == "54"
    assert found(text="Ünï") == "1"
    assert found(text="0%") == "1"
    assert found(text="plan") == "2"
    assert found(text="Plan") == "4"
    assert found(text="boss@") == "3"
    assert found(kind=Kind.MESSAGE) == "531"
    assert found(deleted=True) == "3"
    assert found(deleted=False) == "5421"
    second = START + timedelta(seconds=3)
    assert found(after=second) == "543"
    assert found(after=second + MICROSECOND) == "54"
    assert found(before=second) == "321"
    assert found(before=second - MICROSECOND) == "21"


def test_the_largest_size_counts(index):
    """States that tell different sizes of one digest give the same sum in any order."""
    one, two = state(1, content=b"x"), state(2, content=b"x")
    two = State(**{**{f: getattr(two, f) for f in two.__struct_fields__}, "size": 50})
    index.record(message("1"), [one])
    index.record(message("2"), [two])
    index.record(message("3"), [one])
    index.commit(0)
    assert index.counts().blob_bytes == 50


def test_unusable(tmp_path):
    """No index, a link, and another application's database are no index."""
    path = tmp_path / "index.sqlite"
    with pytest.raises(IndexUnusable):
        Index(path)
    fresh(tmp_path).close()
    path.rename(tmp_path / "real")
    path.symlink_to(tmp_path / "real")
    with pytest.raises(IndexUnusable):
        Index(path)


def test_damage_found_while_running_is_marked(tmp_path):
    """Damage that only a later question meets makes the next open build the index anew."""
    index = fresh(tmp_path)
    for number in range(1, 3000):
        index.record(message(str(number)), [state(number)])
    index.commit(1)
    index.close()
    path = tmp_path / "index.sqlite"
    content = bytearray(path.read_bytes())
    for page in range(20, len(content) // 4096):
        content[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(content)
    index = Index(path)
    with pytest.raises(Exception, match="malformed"):
        list(index.items("alice"))
    index.close()
    with pytest.raises(IndexUnusable):
        Index(path)
