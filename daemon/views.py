"""Views: what the control socket shows of the backup, made from store and operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from backupd import durable
from backupd.clock import parse_moment
from backupd.control import BackupInfoReply
from backupd.errors import UnknownItem, UsageError
from backupd.items import CONTENT_KINDS, ItemKey, Kind
from backupd.jobs.restore import choose_state, find_item
from backupd.keeping_views import BloblessView
from backupd.operations import Operation
from backupd.replies import ItemReply, SearchReply
from backupd.states import State
from backupd.store.index_queries import Counts, KnownItem
from backupd.store.index_search import NAMES
from backupd.store.layout import blob_name
from backupd.store.store import Store
from backupd.views import (
    CountView,
    FoundItem,
    OperationView,
    ProgressView,
    ScheduleView,
    SpaceView,
    StateView,
)
from daemon.scheduler import Job

SEARCH_LIMIT_MAX = 100_000


def operation_view(operation: Operation) -> OperationView:
    """Return an operation as the control socket shows it."""
    progress = operation.progress
    return OperationView(
        uuid=operation.uuid,
        type=operation.type,
        status=operation.status,
        parameters=operation.parameters,
        started_by=operation.started_by,
        submitted=operation.submitted,
        started=operation.started,
        ended=operation.ended,
        progress=ProgressView(
            done=progress.done,
            total=progress.total or 0,
            unit=progress.unit,
            rate=progress.rate,
            remaining_seconds=progress.remaining_seconds,
        ),
        verdict=f"{operation.verdict} ({operation.hint})" if operation.hint else operation.verdict,
        hint=operation.hint,
        errors=tuple(str(one) for one in operation.errors),
        errors_total=operation.errors_total,
    )


def schedule_view(job: Job) -> ScheduleView:
    """Return a scheduled job as the control socket shows it."""
    return ScheduleView(
        job=job.name,
        pattern=job.pattern,
        enabled=job.enabled,
        next=job.next,
        last=job.last,
        missed=job.missed,
        last_missed=job.last_missed,
        note=job.note,
    )


def state_views(
    history: Sequence[State], has_blob: Callable[[str], bool] = lambda _digest: True
) -> tuple[StateView, ...]:
    """Return a history with the end of each state and the place of its blob.

    `has_blob` is asked where a content was left with the AppServer: it may have been fetched since.
    """
    ends: list[datetime | None] = [state.start for state in history[1:]]
    ends.append(None)
    return tuple(
        StateView(
            transaction=state.transaction,
            start=state.start,
            end=end,
            change=state.change.value,
            deleted=state.deleted,
            origin=state.origin.value,
            folder=str(state.metadata.get("folder", "")),
            digest=state.digest,
            size=state.size,
            blob_path=_blob_path(state, has_blob),
            metadata=state.metadata,
            events=state.events,
            observed=state.observed,
            actor=state.actor,
            lacking=state.lacking,
            held=state.held,
        )
        for state, end in zip(history, ends, strict=True)
    )


def _blob_path(state: State, has_blob: Callable[[str], bool]) -> str:
    if state.digest is None or (state.held and not has_blob(state.digest)):
        return ""
    return blob_name(state.digest)


def history_of(store: Store, account: str, item: str) -> tuple[list[State], KnownItem, ItemKey]:
    """Return an item's history, its account's row and its key. Raises `UnknownAccount`, `UnknownItem`."""
    owner, key = find_item(store, account, item)
    history = store.histories.read(key)
    if not history:
        raise UnknownItem(f"item {item!r} has no history")
    return history, owner, key


def item_reply(store: Store, account: str, item: str, date: str) -> ItemReply:
    """Return the states of an item: `all`, `first`, `last`, or the one at a moment. Raises `UnknownItem`."""
    history, known, key = history_of(store, account, item)
    views = state_views(history, store.blobs.contains)
    match date:
        case "all":
            chosen = views
        case "first":
            chosen = views[:1]
        case "last":
            chosen = views[-1:]
        case _:
            state = choose_state(history, parse_moment(date), what=f"item {item!r}")
            chosen = (views[list(history).index(state)],)
    return ItemReply(
        account=key.account,
        account_name=str(known.metadata.get("name", "")) if known.kind is Kind.ACCOUNT else "",
        item=item,
        kind=key.kind.value,
        states=chosen,
    )


def state_to_dump(store: Store, account: str, item: str, date: str) -> State:
    """Return the state whose content is wanted. Raises `UnknownItem` where it has none."""
    history, _, key = history_of(store, account, item)
    match date:
        case "last" | "all":
            state = history[-1]
        case "first":
            state = history[0]
        case _:
            state = choose_state(history, parse_moment(date), what=f"item {item!r}")
    if state.digest is None:
        raise UnknownItem(f"item {item!r} is a {key.kind.value} and has no content then")
    return state


def found_items(
    hits: Sequence[KnownItem], owner: KnownItem | None, account: str, *, raw: bool, more: bool
) -> SearchReply:
    """Return what a search found."""
    return SearchReply(
        account=account,
        account_name=str(owner.metadata.get("name", "")) if owner is not None else "",
        items=tuple(
            FoundItem(
                id=hit.item,
                kind=hit.kind.value,
                folder=str(hit.metadata.get("folder", "")),
                date=_date_of(hit),
                deleted=hit.deleted,
                deleted_at=hit.deleted_at,
                subject=name_of(hit.metadata),
                sender=str(hit.metadata.get("from") or hit.metadata.get("sender") or ""),
                size=hit.size,
                metadata=hit.metadata if raw else None,
            )
            for hit in hits
        ),
        more=more,
    )


def name_of(metadata: Mapping[str, Any]) -> str:
    """Return what an item is called."""
    return next((str(metadata[key]) for key in NAMES if metadata.get(key)), "")


def _date_of(hit: KnownItem) -> datetime | None:
    for name in ("received", "start", "modified"):
        value = hit.metadata.get(name)
        if isinstance(value, str) and hit.kind in CONTENT_KINDS:
            try:
                return parse_moment(value)
            except UsageError:
                continue  # a publisher's own idea of a date
    return hit.first


def counts_view(counts: Counts) -> tuple[CountView, ...]:
    """Return live and deleted items by kind."""
    kinds = sorted(counts.items.keys() | counts.deleted.keys())
    return tuple(
        CountView(kind=kind, items=counts.items.get(kind, 0), deleted=counts.deleted.get(kind, 0))
        for kind in kinds
    )


def backup_info(store: Store) -> BackupInfoReply:
    """Return whose backup it is and what it holds."""
    counts = store.index.counts()
    statistics = store.statistics.backup()
    identity, keeping = store.identity, store.keeping
    blobless = None
    if keeping.holder is not None:
        blobless = BloblessView(active=keeping.is_blobless, not_fetched=keeping.left)
    return BackupInfoReply(
        backup_path=str(store.layout.root),
        server_id=identity.server,
        server_name=identity.name,
        format_version=identity.format,
        created=identity.since,
        first_scan=statistics.first_run,
        last_scan=statistics.last_scan_ended,
        imported_from=identity.imported_from or "",
        accounts=counts.items.get(Kind.ACCOUNT, 0),
        accounts_deleted=counts.deleted.get(Kind.ACCOUNT, 0),
        counts=counts_view(counts),
        space=SpaceView(
            free_bytes=store.free_bytes(),
            total_bytes=durable.total_bytes(store.layout.root),
            blobs=counts.blobs,
            blob_bytes=counts.blob_bytes,
            journal_bytes=store.journal.size_bytes(),
        ),
        blobless=blobless,
    )
