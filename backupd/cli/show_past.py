"""Showing the past: an item's life line by line, an account at two moments, its folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backupd.cli.page import Page
from backupd.cli.text import local, size, visible
from backupd.replies import DiffReply, FoldersReply, HistoryReply
from backupd.views import TurnView

COUNT_WORDS = {
    "appeared": "appeared",
    "vanished": "vanished",
    "moved": "moved",
    "moved_with_folder": "moved with their folder",
    "reflagged": "flags changed",
    "retagged": "tags changed",
    "content_changed": "content changed",
    "changed": "changed otherwise",
    "folders_made": "folders made",
    "folders_renamed": "folders renamed",
    "folders_removed": "folders removed",
    "attributes_changed": "account attributes",
}


def show_history(reply: HistoryReply, page: Page) -> None:
    """Show an item's life, one state a line."""
    owner = visible(reply.account_name or reply.account)
    page.line(f"{visible(reply.kind)} {visible(reply.item)} of {owner}", style="bold")
    page.table(
        ("when", "what", "by", "transaction"),
        [
            (local(turn.start, exact=True), visible(turn.words), visible(_actor(turn.actor)), _origin(turn))
            for turn in reply.turns
        ],
    )


def _actor(actor: Mapping[str, Any] | None) -> str:
    """Return who did it, as far as the event told: a client, and from where."""
    if not actor:
        return ""
    client, address = str(actor.get("client", "")), str(actor.get("address", ""))
    told = f"{client} from {address}" if client and address else client or address
    rest = [f"{key} {value}" for key, value in actor.items() if key not in {"client", "address"}]
    return ", ".join([*([told] if told else []), *rest])


def _origin(turn: TurnView) -> str:
    words = f"{turn.transaction} {visible(turn.origin)}"
    if len(turn.events) > 1:
        words += f", {len(turn.events)} events"
    if turn.observed is not None:
        words += f", late: of {local(turn.observed, exact=True)}"
    return f"{words}, lacks {visible(' and '.join(turn.lacking))}" if turn.lacking else words


def show_diff(reply: DiffReply, page: Page) -> None:
    """Show what differs between two moments: the counts first, then the items."""
    owner = visible(reply.account_name or reply.account)
    page.line(f"{owner} from {local(reply.start)} to {local(reply.end)}", style="bold")
    counted = [(COUNT_WORDS.get(name, name), count) for name, count in reply.counts.items() if count]
    if not counted:
        page.line("nothing differs")
        return
    page.fields(((visible(words), f"{count:,}") for words, count in counted), indent=2)
    if reply.items:
        page.line()
        page.table(
            ("id", "kind", "what", "last change", "subject"),
            [
                (
                    visible(one.id),
                    visible(one.kind),
                    visible(one.words),
                    local(one.date),
                    visible(one.subject or one.folder),
                )
                for one in reply.items
            ],
        )
    if reply.items_total > len(reply.items):
        left = reply.items_total - len(reply.items)
        page.line(f"and {left:,} more items: limit N lists more of them")


def show_folders(reply: FoldersReply, page: Page) -> None:
    """Show an account's folders as a tree, with what lies in each of them."""
    owner = visible(reply.account_name or reply.account)
    moment = f" as of {local(reply.date)}" if reply.date is not None else ""
    gone = ", deleted" if reply.deleted else ""
    page.line(f"{owner}{moment}{gone}", style="bold")
    if not reply.folders:
        page.line("no folder then")
        return
    page.table(
        ("area", "folder", "items", "unread", "size"),
        [
            (
                visible(one.area),
                "  " * one.folder.count("/") + visible(one.folder or "/"),
                f"{one.items:,}",
                f"{one.unread:,}" if one.unread else "",
                size(one.size),
            )
            for one in reply.folders
        ],
    )
    items, total = sum(one.items for one in reply.folders), sum(one.size for one in reply.folders)
    page.line()
    page.line(f"{len(reply.folders):,} folders, {items:,} items, {size(total)}")
