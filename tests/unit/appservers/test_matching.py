"""Claims about which seen file is which known item."""

from __future__ import annotations

from backupd.appservers.identity import FolderRow, Row
from backupd.appservers.matching import Seen, match, match_folders


def row(folder, base, inode, identifier=None, size=10, mtime=5):
    return Row("mail", folder, base, inode, size, mtime, identifier or base, "message", f"cur/{base}")


def seen(folder, base, inode, size=10, mtime=5):
    return Seen("mail", folder, base, inode, size, mtime, "message", f"cur/{base}")


def ids(known, files, **options):
    options = {"derive": lambda one: one.base, "is_taken": lambda _: False} | options
    matches, gone = match(known, files, **options)
    return [one.row.id for one in matches], {(each.folder, each.base) for each in gone}, matches


def test_the_same_place_is_the_same_item():
    """A file where one was known is that item; another size means another content."""
    found, gone, matches = ids([row("A", "m", 1, "id")], [seen("A", "m", 1, size=11)])
    assert (found, gone) == (["id"], set())
    assert not matches[0].same_content


def test_a_base_that_moved_keeps_its_id():
    """A base gone from one folder and seen in another is a move, its content the same."""
    found, gone, matches = ids([row("A", "m", 1, "id")], [seen("B", "m", 1)])
    assert (found, gone) == (["id"], {("A", "m")})
    assert matches[0].same_content


def test_a_copy_is_a_new_item():
    """While the first place is still taken, the second is another item, with an id of its own."""
    found, _, _ = ids([row("A", "m", 1, "m")], [seen("A", "m", 1), seen("B", "m", 2)])
    assert found == ["m", "m~2"]


def test_dovecots_move_is_known_by_its_file_number():
    """Another base with number, size and time of a file that is gone is that item, but read again."""
    found, gone, matches = ids([row("A", "old", 7, "id")], [seen("B", "new", 7)])
    assert (found, gone) == (["id"], {("A", "old")})
    assert not matches[0].same_content


def test_a_number_used_again_is_no_move():
    """The same file number with another size or time is another item."""
    for other in (seen("B", "new", 7, size=11), seen("B", "new", 7, mtime=6)):
        assert ids([row("A", "old", 7, "id")], [other])[0] == ["new"]


def test_two_places_swapped():
    """Items at their places are not confused with moves, whatever their numbers."""
    found, gone, _ = ids([row("A", "x", 1), row("A", "y", 2)], [seen("A", "x", 2), seen("A", "y", 1)])
    assert (found, gone) == (["x", "y"], set())


def test_taken_ids_get_a_suffix():
    """An id that another item of the account has is not given again; one whose item is gone is."""
    assert ids([], [seen("A", "m", 1)], is_taken=lambda each: each == "m")[0] == ["m~2"]
    found, _, _ = ids(
        [row("A", "gone", 1, "doc", size=3)], [seen("B", "doc", 9)], is_taken=lambda each: each == "doc"
    )
    assert found == ["doc"]


def test_documents_are_their_paths():
    """Without `by_base` the same name in another folder is another item unless the file is the same."""
    found, _, _ = ids([row("A", "m", 1, "id")], [seen("B", "m", 2)], by_base=False)
    assert found == ["m"]
    assert ids([row("A", "m", 1, "id")], [seen("B", "m", 1)], by_base=False)[0] == ["id"]


def folder_ids(known, now, may_be=lambda *_: True):
    matched = match_folders(known, now, derive=lambda _, folder: folder, may_be=may_be)
    return [each.id for each in matched]


def test_folders():
    """A folder keeps its id under its path and when renamed; a number used again is not believed."""
    known = [FolderRow("mail", "A", 1, "a"), FolderRow("mail", "B", 2, "b")]
    assert folder_ids(known, [("mail", "A", 9), ("mail", "C", 2)]) == ["a", "b"]
    assert folder_ids(known, [("mail", "C", 2)], may_be=lambda *_: False) == ["C"]
    assert folder_ids(known, [("files", "C", 2)]) == ["C"]
    taken = [FolderRow("mail", "A", 1, "C")]
    assert folder_ids(taken, [("mail", "A", 1), ("mail", "C", 2)]) == ["C", "C~2"]
