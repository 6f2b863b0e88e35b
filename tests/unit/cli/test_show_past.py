"""Pages of the past: histories, differences and folders, with nothing in them that acts on a terminal."""

from __future__ import annotations

import io
from datetime import timedelta

from backupd.cli.page import PlainPage
from backupd.cli.show import show
from backupd.cli.show_past import COUNT_WORDS
from backupd.commands import COMMANDS
from backupd.jobs.restore.comparing import GROUPS
from backupd.replies import DiffReply, FoldersReply, HistoryReply
from backupd.views import ChangedView, FolderView, TurnView
from tests.world.service import NOON


def shown(reply) -> str:
    out = io.StringIO()
    show(reply, COMMANDS[0], PlainPage(out))
    return out.getvalue()


def test_a_history_is_one_line_a_state():
    """What, by whom, and the transaction with its origin, the events merged into it and what it lacks."""
    turns = (
        TurnView(transaction=7, start=NOON, words="created in INBOX", change="created", origin="realtime"),
        TurnView(
            transaction=9,
            start=NOON + timedelta(minutes=1),
            words="moved INBOX -> \x1b[2J",
            change="moved",
            origin="smartscan",
            events=("a", "b"),
            lacking=("content",),
            actor={"client": "imap", "address": "192.0.2.7", "session": 4},
        ),
    )
    page = shown(HistoryReply(account="1", account_name="a@x.example", item="5", kind="message", turns=turns))
    assert len(page.splitlines()) == 4
    assert "imap from 192.0.2.7, session 4" in page
    assert "9 smartscan, 2 events, lacks content" in page
    assert "\x1b" not in page


def test_a_diff_shows_counts_then_items():
    """Only what was counted is shown, and how many items the limit left out."""
    view = ChangedView(id="5", kind="message", words="read", date=NOON, subject="Plan")
    counts = {"appeared": 1200, "vanished": 0}
    reply = DiffReply(account="1", start=NOON, end=NOON, counts=counts, items=(view,), items_total=1200)
    page = shown(reply)
    assert "1,200" in page
    assert "vanished" not in page
    assert "and 1,199 more items: limit N" in page
    nothing = DiffReply(account="1", start=NOON, end=NOON, counts={"appeared": 0}, items=())
    assert "nothing differs" in shown(nothing)
    assert COUNT_WORDS.keys() == GROUPS.keys()


def test_folders_are_a_tree():
    """Folders stand below their parents, and their sum is the last line."""
    folders = (
        FolderView(area="mail", folder="INBOX", items=3, unread=1, size=2048),
        FolderView(area="mail", folder="INBOX/Sub", items=1, size=1024),
    )
    page = shown(FoldersReply(account="1", date=NOON, folders=folders))
    assert "  INBOX/Sub" in page
    assert page.splitlines()[-1] == "2 folders, 4 items, 3.0 KiB"
