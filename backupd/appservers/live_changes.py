"""Tells live changes: makes a `Change` with the whole photograph from what is known of an item's place.

What was told is remembered for a while (`TOLD_MAX` items), so that several hints about one act are told
once. Telling a thing twice does no harm: an equal photograph adds nothing to a history.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from backupd.appservers.base import BytesContent, Watched
from backupd.appservers.directory_reader import DirectoryReader, Locator
from backupd.appservers.identity import FolderRow, Row
from backupd.appservers.listing import folder_metadata
from backupd.appservers.naming import raw
from backupd.clock import Clock
from backupd.errors import BackupdError, ItemVanished
from backupd.events import Change
from backupd.items import Area, Kind, digest_of
from backupd.states import ChangeType, Origin

BODY_BYTES_MAX = 64 * 1024
TOLD_MAX = 20_000


class Teller:
    """Collects changes, and the accounts of which some may have been missed, until they are taken."""

    def __init__(self, reader: DirectoryReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._changes: list[Change] = []
        self._missed: set[str] = set()
        self._told: OrderedDict[tuple[str, str], Row] = OrderedDict()

    def take(self) -> Watched:
        """Return what was collected, and begin anew."""
        watched = Watched(changes=tuple(self._changes), missed=frozenset(self._missed))
        self._changes, self._missed = [], set()
        return watched

    def missed(self, account: str) -> None:
        """Note that changes of an account may have been missed."""
        self._missed.add(account)

    def was_told(self, account: str, row: Row) -> bool:
        """Tell whether exactly this was told lately."""
        return self._told.get((account, row.id)) == row

    def forget(self, account: str, row: Row) -> None:
        """Let an item be told again though nothing of its place changed."""
        self._told.pop((account, row.id), None)

    def item(
        self, account: str, row: Row, directory: str, change: ChangeType, *, with_body: bool
    ) -> Row | None:
        """Tell an item as it is at its place; return its row with its kind, or None if it is not there."""
        place = Locator(Area(row.area), row.folder, f"{directory}/{raw(row.name)}")
        try:
            kind, reading = self._reader.read_at(place)
        except ItemVanished:
            return None
        except BackupdError:
            self.missed(account)
            return None
        content = reading.content
        whole = content.content if isinstance(content, BytesContent) else None
        self._add(
            account,
            kind,
            row.id,
            change,
            metadata=reading.metadata,
            digest=None if whole is None else digest_of(whole),
            size=None if content is None else content.size,
            body=whole if with_body and whole is not None and len(whole) <= BODY_BYTES_MAX else None,
        )
        told = row._replace(kind=kind.value)
        self._told[account, row.id] = told
        self._told.move_to_end((account, row.id))
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        return told

    def item_deleted(self, account: str, row: Row) -> None:
        """Tell that an item is gone."""
        self._told.pop((account, row.id), None)
        self._add(account, Kind(row.kind), row.id, ChangeType.DELETED)

    def folder(self, account: str, row: FolderRow, change: ChangeType) -> None:
        """Tell what happened to a folder."""
        metadata = None if change is ChangeType.DELETED else folder_metadata(row.area, row.folder)
        self._add(account, Kind.FOLDER, row.id, change, metadata=metadata)

    def account(self, account: str, change: ChangeType, metadata: dict[str, Any] | None = None) -> None:
        """Tell what happened to an account itself."""
        self._add(account, Kind.ACCOUNT, account, change, metadata=metadata)

    def _add(
        self,
        account: str,
        kind: Kind,
        item: str,
        change: ChangeType,
        *,
        metadata: dict[str, Any] | None = None,
        digest: str | None = None,
        size: int | None = None,
        body: bytes | None = None,
    ) -> None:
        self._changes.append(
            Change(
                account=account,
                kind=kind,
                item=item,
                type=change,
                time=self._clock.now(),
                origin=Origin.REALTIME,
                metadata=metadata,
                digest=digest,
                # A size without a digest would say something about content that nobody has seen.
                size=None if digest is None else size,
                body=body,
            )
        )
