"""The file of `getAvailableAccounts output_file`: its lists as values, and how it comes to be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from backupd.cli.accounts_file import (
    NotRead,
    NotWritten,
    lists_text,
    read_accounts,
    with_accounts,
    write_lists,
)
from tests.world.service import ACCOUNTS

ALICE_AND_BOB = ACCOUNTS[:2]
MAP = (
    "u1\talice@example.com\tactive\t2026-11-23T12:00:00Z\t\n"
    "u2\tbob@example.com\tclosed\t2026-11-23T12:00:00Z\t2026-11-24T12:00:00Z\n"
)


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        (["accountList"], "alice@example.com\nbob@example.com\n"),
        (["accountIdList"], "u1\nu2\n"),
        (["accountAndIdList"], "alice@example.com u1\nbob@example.com u2\n"),
        (["accountMap"], MAP),
        (["accountIdList", "accountMap"], f"# accountIdList\nu1\nu2\n# accountMap\n{MAP}"),
        (["accountIdList", "accountIdList"], "u1\nu2\n"),
    ],
)
def test_each_list_has_its_lines(headers: list[str], text: str):
    """One list stands alone, several are headed by their names."""
    assert lists_text(ALICE_AND_BOB, headers) == text


def test_no_address_begins_a_line_of_its_own():
    """A name with a line break in it stays one line."""
    evil = msgspec.structs.replace(ALICE_AND_BOB[0], name="a\n# accountMap\tx")
    assert lists_text([evil], ["accountList"]) == "a\\n# accountMap\\tx\n"
    assert lists_text([evil], ["accountMap"]).count("\t") == 4


def test_the_file_is_replaced_whole_and_private(tmp_path: Path):
    """An old file, also behind a link, is replaced by one for its owner alone; nothing else is left."""
    target = tmp_path / "list"
    target.write_text("old")
    target.chmod(0o644)
    (tmp_path / "link").symlink_to(target)
    write_lists(str(tmp_path / "link"), ALICE_AND_BOB, ["accountIdList"])
    assert target.read_text() == "u1\nu2\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "list"]


def test_what_can_not_be_a_file_is_refused(tmp_path: Path):
    """A pipe (as a device would be), a folder and a place that is not there are told, and left as they are.

    None of them is the machine's: where this claim were false, it would be replaced.
    """
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in ("pipe", "folder", "nowhere/list"):
        with pytest.raises(NotWritten) as refused:
            write_lists(str(tmp_path / path), ALICE_AND_BOB, ["accountList"])
        assert refused.value.exit_status == 74
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_accounts_are_read_one_a_line(tmp_path: Path):
    """Comments, empty lines and a byte order mark are passed; they come after those given on the line."""
    path = tmp_path / "accounts"
    path.write_bytes(b"\xef\xbb\xbf# two\r\n a@b \r\n\r\nid-2\r\n")
    assert read_accounts(str(path)) == ["a@b", "id-2"]
    given = {"source_path": "/x", "accounts": ["c@d"], "input_file": str(path)}
    assert with_accounts(given) == {"source_path": "/x", "accounts": ["c@d", "a@b", "id-2"]}
    assert with_accounts({"accounts": None, "input_file": None}) == {"accounts": None}


@pytest.mark.parametrize("content", [b"", b"# nobody\n", b"\xff\xfe", None])
def test_a_file_without_accounts_is_refused(tmp_path: Path, content: bytes | None):
    """Nobody named must not mean everybody."""
    path = tmp_path / "accounts"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotRead):
        with_accounts({"accounts": None, "input_file": str(path)})
