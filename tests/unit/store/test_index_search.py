"""Searching the index: every condition, now and as of a moment, with and without regard to case."""

from __future__ import annotations

import os
import time
import unicodedata
from datetime import timedelta

import pytest

from backupd.items import ItemKey, Kind
from backupd.store.index import Index, build
from backupd.store.index_search import Search, folded
from tests.unit.store.making import START, state

NFC, NFD = (unicodedata.normalize(form, "Größe café") for form in ("NFC", "NFD"))
MESSAGES = {
    "1": {
        "folder": "INBOX",
        "subject": "Offer",
        "sender": "ann@x.example",
        "from": "Ann Lee <ann@x.example>",
    },
    "2": {
        "folder": "INBOX/Jobs",
        "subject": "offer two",
        "to": ["Bob <bob@y.example>"],
        "cc": ["eve@z.example"],
    },
    "3": {"folder": "INBOXES", "subject": NFC, "to": "odd@y.example", "sender": 7},
    "4": {"folder": "Sent", "subject": NFD.upper(), "bcc": [None, "bob@y.example"]},
}


@pytest.fixture
def index(tmp_path):
    """Return an index of four messages; then the first is renamed and the second goes."""
    histories = [
        (ItemKey("alice", Kind.MESSAGE, item), [state(int(item), metadata=metadata)])
        for item, metadata in MESSAGES.items()
    ]
    histories[0][1].append(state(11, metadata={**MESSAGES["1"], "subject": "Answer"}))
    histories[1][1].append(state(12, metadata=MESSAGES["2"], deleted=True))
    build(tmp_path / "index.sqlite", histories, 0)
    opened = Index(tmp_path / "index.sqlite")
    yield opened
    opened.close()


CASES = [
    ({"folder": "INBOX"}, "1"),
    ({"folder": "INBOX", "recursive": True}, "12"),
    ({"folder": "/INBOX/"}, "1"),
    ({"folder": "inbox"}, ""),
    ({"folder": "inbox", "recursive": True, "ignore_case": True}, "12"),
    ({"folder": "", "recursive": True}, "1234"),
    ({"sender": "Ann Lee"}, "1"),
    ({"sender": "ann lee"}, ""),
    ({"sender": "ann lee", "ignore_case": True}, "1"),
    ({"recipient": "bob@"}, "24"),
    ({"recipient": "odd@"}, "3"),
    ({"recipient": "eve@"}, "2"),
    ({"recipient": "ann@"}, ""),
    ({"subject": "größe", "ignore_case": True}, "34"),
    ({"subject": "GRÖSSE CAFÉ", "ignore_case": True}, "34"),
    ({"subject": "Größe"}, "3"),
    ({"subject": "ann@x"}, ""),
    ({"text": "ann@x"}, "1"),
    ({"kind": Kind.DOCUMENT}, ""),
    ({"text": "%"}, ""),
]


@pytest.mark.parametrize(("asked", "expected"), CASES)
def test_each_condition_finds_the_same_now_and_as_of_a_moment(index, asked, expected):
    """What SQL judges of now and what is judged of the past agree."""
    now = {hit.item for hit in index.search("alice", Search(**asked))}
    assert now == set(expected)
    late = START + timedelta(days=1)
    assert {hit.item for hit in index.search("alice", Search(**asked, when=late))} == set(expected)


def test_a_moment_shows_what_was_then(index):
    """As of a moment subjects are those of then, and what was deleted since is there."""
    then = START + timedelta(seconds=6)
    assert [hit.item for hit in index.search("alice", Search(subject="Offer", when=then))] == ["1"]
    assert index.search("alice", Search(subject="Offer")) == []
    alive = index.search("alice", Search(deleted=False, when=then, limit=3))
    assert [hit.item for hit in alive] == ["4", "3", "2"]
    assert "2" not in [hit.item for hit in index.search("alice", Search(deleted=False))]


def test_folding_is_unicode_s():
    """Composition and case make no difference, whatever the script."""
    assert folded("Straße") == folded("STRASSE")
    assert folded(NFC) == folded(NFD)
    assert folded("ΣΊΣΥΦΟΣ") == folded("σίσυφοσ")
    assert folded(None) is None


def test_a_hundred_thousand_items_are_searched_quickly(tmp_path):
    """Each condition takes well below a second at a size that BACKUPD_SEARCH_ITEMS sets."""
    count = int(os.environ.get("BACKUPD_SEARCH_ITEMS", "10000"))
    histories = (
        (
            ItemKey("alice", Kind.MESSAGE, str(number)),
            [
                state(
                    number,
                    metadata={
                        "folder": f"F{number % 50}",
                        "subject": f"Übersicht number {number} of many",
                        "sender": f"s{number % 97}@example.org",
                        "from": f"Sender <s{number % 97}@example.org>",
                        "to": [f"u{number % 31}@example.com", "all@example.com"],
                        "flags": ["seen"],
                        "message_id": f"<{number}.abcdefghijkl@example.org>",
                        "received": "2026-11-23T20:55:00.000000Z",
                    },
                )
            ],
        )
        for number in range(1, count + 1)
    )
    build(tmp_path / "index.sqlite", histories, 0)
    index = Index(tmp_path / "index.sqlite")
    asked = {
        "everything": Search(),
        "text": Search(text="number 77"),
        "folded": Search(text="übersicht NUMBER 77", ignore_case=True),
        "recipient": Search(recipient="u7@"),
        "folder": Search(folder="F7", recursive=True),
        "nothing": Search(subject="not there"),
        "past": Search(text="number 77", when=START + timedelta(days=9)),
    }
    for name, search in asked.items():
        began = time.process_time()
        found = len(index.search("alice", search))
        took = time.process_time() - began
        print(f"{name}: {found} of {count} in {took:.3f} s")
        assert took < 1 + count / 30_000
    index.close()
