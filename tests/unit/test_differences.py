"""Differences: two sides of an item in, what changed out, in words that an admin reads."""

from __future__ import annotations

from typing import Any

import pytest

from backupd.differences import Way, differences, in_words
from backupd.items import Kind
from backupd.states import State
from tests.unit.store.making import state


def side(content: bytes | None = b"x", *, deleted: bool = False, lacking: Any = (), **metadata: Any) -> State:
    """Return a side of a message in INBOX."""
    told = {"folder": "INBOX", **metadata}
    return state(1, content=content, deleted=deleted, lacking=lacking, metadata=told)


def words(before: State | None, after: State, kind: Kind = Kind.MESSAGE) -> str:
    return in_words(differences(before, after, kind))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, side(b"12"), "created in INBOX (2 B)"),
        (side(), side(flags=["seen"]), "read"),
        (side(flags=["seen"]), side(flags=[]), "marked unread"),
        (side(), side(flags=["flagged", "seen"]), "flagged important, read"),
        (side(), side(flags=["odd"]), "flag odd set"),
        (side(tags=["old"]), side(tags=["work"]), "tagged work, tag old removed"),
        (side(), side(folder="Archive"), "moved INBOX -> Archive"),
        (side(b"1" * 5222), side(b"2" * 5427), "content changed 5.1 KiB -> 5.3 KiB"),
        (side(), side(deleted=True), "deleted from INBOX"),
        (side(deleted=True), side(folder="Sent"), "back in Sent (1 B), moved INBOX -> Sent"),
        (side(subject="a"), side(subject="b"), 'subject changed "a" -> "b"'),
        (side(), side(rank=[1]), "rank set to [1]"),
        (side(rank=7), side(), "rank removed, it was 7"),
        (side(b"1", bytes=1, modified="m"), side(b"2", bytes=1, modified="n"), "content changed 1 B -> 1 B"),
    ],
)
def test_each_difference_has_its_words(before, after, said):
    """One line says what happened, no more and no less."""
    assert words(before, after) == said


def test_equal_sides_differ_in_nothing():
    """The order of flags is no difference, nor is a second deletion."""
    assert differences(side(flags=["a", "b"]), side(flags=["b", "a"]), Kind.MESSAGE) == ()
    assert differences(side(deleted=True), side(deleted=True), Kind.MESSAGE) == ()
    assert words(None, side(deleted=True)) == "gone before anybody saw it"


def test_folders_are_renamed_not_moved():
    """What is a move for an item is another name for a folder."""
    assert words(side(None), side(None, folder="Old"), Kind.FOLDER) == "renamed INBOX -> Old"


def test_secrets_change_without_their_values():
    """A password hash is told to have changed, and nothing more of it."""
    (found,) = differences(side(password_hash="one"), side(password_hash="two"), Kind.ACCOUNT)
    assert (found.way, found.before, found.after) == (Way.ATTRIBUTE, None, None)
    assert "one" not in found.words


def test_what_was_read_late_is_no_change():
    """A photograph that could be taken only later completes a state."""
    bare = state(1, metadata={}, lacking=("metadata", "content"))
    assert words(bare, side()) == "read for the first time in INBOX"


def test_metadata_of_any_form_is_borne():
    """A publisher may write anything: nothing is raised."""
    odd = side(flags="seen", tags={"a": 1}, folder=None)
    assert "moved" in words(side(), odd)
