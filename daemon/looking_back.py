"""Looking back: an item's life in words, an account at two moments, its folders as of one; of any store."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from backupd.clock import parse_moment
from backupd.errors import UnknownAccount, UsageError
from backupd.items import AREA_OF_KIND, Kind
from backupd.jobs.restore import comparing, past
from backupd.jobs.restore.accounts import AFTER_ALL
from backupd.jobs.restore.past import AccountThen
from backupd.replies import DiffReply, FoldersReply, HistoryReply, SearchReply
from backupd.store.index_queries import KnownItem
from backupd.store.index_search import Search
from backupd.store.store import Store
from backupd.views import ChangedView, FolderView, TurnView
from daemon import views
from daemon.answering import Given


def history(store: Store, given: Given) -> HistoryReply:
    """Return what each state of an item brought. Raises `UnknownAccount`, `UnknownItem`."""
    states, owner, key = views.history_of(store, given["account"], given["item"])
    turns = tuple(
        TurnView(
            transaction=turn.state.transaction,
            start=turn.state.start,
            words=turn.words,
            differences=turn.found,
            change=turn.state.change.value,
            origin=turn.state.origin.value,
            events=turn.state.events,
            observed=turn.state.observed,
            actor=turn.state.actor,
            lacking=turn.state.lacking,
        )
        for turn in comparing.turns_of(states)
    )
    name = str(owner.metadata.get("name", "")) if owner.kind is Kind.ACCOUNT else ""
    return HistoryReply(
        account=key.account, account_name=name, item=key.item, kind=key.kind.value, turns=turns
    )


def diff(store: Store, given: Given, now: datetime) -> DiffReply:
    """Return what differs in an account between two moments. Raises `UnknownAccount`, `UsageError`."""
    start = parse_moment(given["start_date"])
    end = now if given["end_date"] == "last" else parse_moment(given["end_date"])
    if start > end:
        raise UsageError("the later moment is before the earlier one", hint="give the earlier one first")
    account = _account(store, given["account"])
    until = AFTER_ALL if given["end_date"] == "last" else end
    compared = comparing.compare(
        store.index.items_at(account.item, start), store.index.items_at(account.item, until)
    )
    limit = max(0, min(given["limit"], views.SEARCH_LIMIT_MAX))
    return DiffReply(
        account=account.item,
        account_name=str(account.metadata.get("name", "")),
        start=start,
        end=end,
        counts=compared.counts,
        items=tuple(_changed_view(one) for one in compared.items[:limit]),
        items_total=len(compared.items),
    )


def _changed_view(one: comparing.Changed) -> ChangedView:
    metadata = one.item.metadata
    return ChangedView(
        id=one.item.item,
        kind=one.item.kind.value,
        folder=str(metadata.get("folder") or ""),
        subject=views.name_of(metadata),
        date=one.item.last,
        groups=one.groups,
        words=one.words,
        differences=one.found,
    )


def folders(store: Store, given: Given) -> FoldersReply:
    """Return an account's folders as of a moment. Raises `UnknownAccount`, `UnknownItem`."""
    when = None if given["date"] == "last" else parse_moment(given["date"])
    then = past.account_at(store, given["account"], AFTER_ALL if when is None else when)
    return FoldersReply(
        account=then.account,
        account_name=then.name,
        date=when,
        deleted=then.deleted,
        folders=folders_of(then),
    )


def folders_of(then: AccountThen) -> tuple[FolderView, ...]:
    """Return an account's folders with what lies in each; one without items is there, too."""
    items: Counter[tuple[str, str]] = Counter()
    unread: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    for item in then.items:
        place = AREA_OF_KIND[item.kind].value, str(item.metadata.get("folder") or "")
        items[place] += 1
        unread[place] += item.kind is Kind.MESSAGE and "seen" not in (item.metadata.get("flags") or ())
        size[place] += item.size or 0
    places = {(area.value, folder) for area, folder in then.folders} | items.keys()
    return tuple(
        FolderView(area=area, folder=folder, items=items[place], unread=unread[place], size=size[place])
        for place in sorted(places, key=lambda place: (place[0], place[1].split("/")))
        for area, folder in (place,)
    )


def search(store: Store, given: Given) -> SearchReply:
    """Return the items of an account that fit. Raises `UnknownAccount`."""
    owner = store.index.find_account(given["account"])
    account = owner.item if owner is not None else given["account"]
    if owner is None and not any(store.index.account_counts(account)):
        raise UnknownAccount(f"no account {given['account']!r} in the backup", hint="give its address or id")
    limit = max(1, min(given["limit"], views.SEARCH_LIMIT_MAX))
    if given["id"] is not None:
        one = store.index.item(account, given["id"])
        hits = [one] if one is not None else []
    else:
        hits = store.index.search(account, _asked(given, limit + 1))
    return views.found_items(hits[:limit], owner, account, raw=given["raw_metadata"], more=len(hits) > limit)


def _asked(given: Given, limit: int) -> Search:
    before, after = given["before"], given["after"]
    if given["recursive"] and given["folder"] is None:
        raise UsageError("recursive goes with folder", hint='for example: folder "INBOX" recursive true')
    return Search(
        kind=None if given["type"] == "all" else Kind(given["type"]),
        folder=given["folder"],
        recursive=bool(given["recursive"]),
        text=given["search_string"],
        subject=given["subject"],
        sender=given["sender"],
        recipient=given["recipient"],
        before=parse_moment(before) if before else None,
        after=parse_moment(after) if after else None,
        deleted={"deleted": True, "not_deleted": False, "all": None}[given["search_filter"]],
        ignore_case=bool(given["ignore_case"]),
        when=None if given["date"] == "last" else parse_moment(given["date"]),
        limit=limit,
    )


def _account(store: Store, name_or_id: str) -> KnownItem:
    known = store.index.find_account(name_or_id)
    if known is None:
        raise UnknownAccount(
            f"no account {name_or_id!r} in the backup", hint="getAvailableAccounts lists them"
        )
    return known
