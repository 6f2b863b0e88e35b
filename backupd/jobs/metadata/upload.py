"""Sending metadata outside: what was recorded, within a minute; archives of changed accounts, once a day.

`send_changes` sends two objects per round, the states that were recorded since the last round and then the
journal entries that brought them, so that what was sent can be put together without the AppServer. A *pass*
(`archive`) makes an archive of every account that is not what its newest archive holds; once all are outside
a summary says so, and what only older passes need is removed. Where a round or a pass ended is read from the
names outside, so that a killed one goes on, and whatever was sent twice is taken once.

Nothing here writes below the Backup Path but the mark up to where changes were sent (ledger, `remembered`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import structlog

from backupd.clock import Clock, written
from backupd.coalescing import Entry
from backupd.decoding import converted, decoded
from backupd.durable import step
from backupd.errors import CorruptHistory, CorruptJournal, VolumeError
from backupd.items import ItemKey
from backupd.jobs.metadata import names, parcels, plan
from backupd.jobs.metadata.plan import AccountMark
from backupd.jobs.metadata.summary import Summary, newest_summary
from backupd.operations import Run
from backupd.store import archives, layout
from backupd.store.archives import ArchiveType
from backupd.store.ledger_tables import Remembered
from backupd.store.ownership import Identity
from backupd.store.store import Store
from backupd.volumes.base import Volume
from backupd.volumes.failures import AccessRefused, RetainedObject

ENTRIES_MAX = 20_000
BYTES_MAX = 16 << 20
"""One pair of objects holds at most so many journal entries, or a little more than so many bytes."""
_SENT = "metadata sent"

log = structlog.get_logger(__name__)


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where changes were sent, and to which volume."""

    volume: str
    through: int


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass did; accounts that failed keep the archive they have."""

    archived: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    bytes: int = 0

    def sentence(self) -> str:
        """Return it in words."""
        failed = f", {self.failed:,} could not be archived" if self.failed else ""
        return (
            f"metadata of {self.archived:,} accounts archived on the external volume "
            f"({self.bytes:,} bytes), {self.unchanged:,} unchanged{failed}"
        )


class MetadataUpload:
    """Sends metadata of one store. All methods block; rounds and passes may run beside each other."""

    def __init__(
        self,
        store: Store,
        volume: Volume,
        *,
        volume_id: str,
        clock: Clock,
        recorded_through: Callable[[], int],
    ) -> None:
        """Take the volume, and what tells up to which journal entry histories are durable."""
        self._store = store
        self._volume = volume
        self._volume_id = volume_id
        self._clock = clock
        self._recorded_through = recorded_through
        self._remembered = Remembered(store.ledger)
        self.reached: int | None = None
        """Up to which journal entry everything was sent, as far as this object knows."""
        self._may_not_delete = False

    @staticmethod
    def check_place(volume: Volume, identity: Identity) -> None:
        """Raise `VolumeError` where the place holds metadata of an earlier Backup Path of this server.

        What an empty Backup Path does not know would be taken for purged, and removed.
        """
        summary, reason = newest_summary(volume)
        if reason:
            raise VolumeError(
                f"no summary on it can be read, which would tell whose backup rests there: {reason}",
                permanent=True,
                hint="bring an older version of the object back, or give another volume_prefix",
            )
        if summary is not None:
            since = converted(summary.map, Identity).since
            if since != identity.since:
                raise VolumeError(
                    f"an earlier backup of this server rests there, begun {written(since)}",
                    permanent=True,
                    hint="retrieveMetadataFromArchive brings it back; to begin anew, give another "
                    "volume_prefix",
                )

    # ------------------------------------------------------------------ changes

    def sent_through(self) -> int:
        """Return up to which journal entry everything was sent. Raises `VolumeError`.

        For a volume nothing was sent to yet that is now: what is older is for the first pass.
        """
        kept = self._remembered.get(_SENT)
        sent = None if kept is None else decoded(kept, Sent)
        if sent is None or sent.volume != self._volume_id:
            ranges = names.range_objects(self._volume.names(names.STATES))
            # Parcels that passes made needless are gone: then the last pass says how far it is.
            summaries = names.summary_objects(self._volume.names(names.SUMMARIES))
            reached = [*(one.last for one in ranges), *(one.through for one in summaries)]
            newest = max(reached, default=None)
            through = self._recorded_through() if newest is None else newest
            sent = self._keep(min(through, self._store.journal.last_sequence))
        self.reached = sent.through
        return sent.through

    def send_changes(self) -> int:
        """Send what was recorded since the last round; return how many journal entries that were.

        Raises `VolumeError`; what was sent before stays sent.
        """
        after, through, count = self.sent_through(), self._recorded_through(), 0
        while after < through:
            entries = self._entries(after, through)
            if entries:
                self._send(entries)
                after = entries[-1].sequence
                count += len(entries)
            else:
                after = through
            self._keep(after)
        return count

    def _entries(self, after: int, through: int) -> list[Entry]:
        """Return the next journal entries; what is damaged is passed over: a pass holds its states."""
        while after < through:
            try:
                read = self._store.journal.read(after, entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX)
            except CorruptJournal as error:
                if error.resume_after <= after:
                    raise
                log.warning("journal_not_sent", reason=error.message)
                after = error.resume_after
                continue
            return [entry for entry in read if entry.sequence <= through]
        return []

    def _send(self, entries: list[Entry]) -> None:
        first, last = entries[0].sequence, entries[-1].sequence
        header = parcels.Header(
            format=parcels.FORMAT, server=self._store.identity.server, first=first, last=last
        )
        parcel = parcels.encode_parcel(header, self._states_of(entries))
        step("metadata.send")
        self._volume.put(names.states_name(first, last), parcel)
        step("metadata.states_sent")
        self._volume.put(names.journal_name(first, last), parcels.encode_stretch(entries))
        step("metadata.sent")

    def _states_of(self, entries: list[Entry]) -> Iterator[parcels.ItemStates]:
        """Yield the states that entries brought; one that settled what waited may have an older number."""
        since: dict[ItemKey, int] = {}
        for entry in entries:
            lowest = min(entry.sequence, entry.change.basis or entry.sequence)
            since[entry.change.key] = min(since.get(entry.change.key, lowest), lowest)
        for key, lowest in since.items():
            try:
                states = self._store.histories.read(key)
            except CorruptHistory:
                states = self._store.histories.salvage(key)
            fresh = [state for state in states if state.transaction >= lowest]
            if fresh:
                yield parcels.ItemStates(account=key.account, kind=key.kind, item=key.item, states=fresh)

    def _keep(self, through: int) -> Sent:
        sent = Sent(volume=self._volume_id, through=through)
        self._remembered.keep(_SENT, msgspec.json.encode(sent))
        self.reached = through
        return sent

    # ----------------------------------------------------------------- archives

    def archive(self, run: Run, account: str | None = None) -> Archived:
        """Archive every account that changed since its last archive, or one; then what the server itself has.

        Raises `VolumeError` where the volume fails altogether; an account that can't be archived is noted as
        an error of the run.
        """
        self.send_changes()
        through, now = self._recorded_through(), self._clock.now()
        marks = [AccountMark(*row) for row in self._store.index.account_marks()]
        outside = names.archive_objects(self._names(names.ACCOUNTS, names.ENTRIES))
        planned = plan.plan_pass(marks, outside, now)
        changed = [one for one in planned.changed if account is None or one.account == account]
        done = Archived(unchanged=planned.unchanged)
        for place, one in enumerate(changed):
            run.check()
            run.report(place, len(changed), unit="accounts archived")
            done = self._archive_one(run, one, through, done)
        self.send_server_archives()
        if account is None and not done.failed:
            self._summarise(marks, through)
            done = msgspec.structs.replace(done, removed=self._remove_obsolete(planned))
        return done

    def _archive_one(self, run: Run, one: AccountMark, through: int, done: Archived) -> Archived:
        name = names.archive_name(one.account, through, one.mark, self._clock.now())
        unread: list[str] = []

        def note(path: str, reason: str) -> None:
            unread.append(path)
            run.note_error(path, reason)

        root = self._store.layout.root
        with tempfile.TemporaryFile(dir=root) as file:
            parcels.write_archive(file, root, _members(root, one.account, note), unread=note)
            size = file.tell()
            if unread:
                return msgspec.structs.replace(done, failed=done.failed + 1)
            file.seek(0)
            step("metadata.archive")
            self._volume.put(name, file)
        if self._volume.size(name) != size:
            raise VolumeError(f"{name} has another size outside than it was sent with")
        step("metadata.archived")
        return msgspec.structs.replace(done, archived=done.archived + 1, bytes=done.bytes + size)

    def send_server_archives(self) -> int:
        """Send the archives of `servers/` that are not outside; return how many. Raises `VolumeError`."""
        there = names.server_archives(self._volume.names(names.SERVER))
        sent = 0
        for type_ in ArchiveType:
            for archive in archives.archives(self._store.layout, type_):
                if archive.path.name not in there:
                    with archive.path.open("rb") as file:
                        self._volume.put(names.server_archive_name(archive.path.name), file)
                    sent += 1
        return sent

    def _summarise(self, marks: list[AccountMark], through: int) -> None:
        store = self._store
        map_file = store.layout.map_file(store.identity.server).read_bytes()
        summary = Summary(
            map=msgspec.json.decode(map_file),
            statistics=store.statistics.backup(),
            through=through,
            accounts={one.account: one.histories for one in marks},
        )
        content = msgspec.json.encode(summary)
        self._volume.put(names.summary_name(through, self._clock.now()), content)
        step("metadata.summarised")

    def _remove_obsolete(self, planned: plan.Pass) -> int:
        """Remove what only passes before the last one need.

        What is retained, or not this key's to delete, stays: a later pass tries again, by whatever key.
        """
        summaries = names.summary_objects(self._volume.names(names.SUMMARIES))
        ranges = names.range_objects(self._names(names.STATES, names.JOURNAL))
        archived = names.archive_objects(self._names(names.ACCOUNTS, names.ENTRIES))
        unneeded = [one.name for one in plan.obsolete_ranges(summaries, ranges)]
        unneeded += [one.name for one in (*plan.obsolete_archives(archived), *planned.gone)]
        unneeded += [one.name for one in plan.obsolete_summaries(summaries)]
        removed = 0
        for name in unneeded:
            step("metadata.remove")
            try:
                removed += self._volume.delete(name)
            except RetainedObject:
                continue
            except AccessRefused as error:
                # The writer may not delete, which is as it should be: others would be refused as well.
                if not self._may_not_delete:
                    log.info("obsolete_metadata_stays", objects=len(unneeded) - removed, reason=error.message)
                self._may_not_delete = True
                return removed
        return removed

    def _names(self, *prefixes: str) -> Iterator[str]:
        for prefix in prefixes:
            yield from self._volume.names(prefix)


def _members(root: Path, account: str, unread: Callable[[str, str], None]) -> Iterator[str]:
    """Yield the files of an account, or those of the server's entries, by relative paths, sorted.

    A directory that can't be listed is told to `unread`; one that has vanished is left out.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            unread(os.path.relpath(error.filename, root), error.strerror or str(error))

    places = (
        [layout.account_directory(account)]
        if account
        else [f"{layout.SERVERS}/{directory}" for directory in layout.SERVER_DIRECTORIES.values()]
    )
    for place in places:
        for directory, below, files in os.walk(root / place, onerror=refuse):
            below.sort()
            for name in sorted(files):
                if not name.startswith("."):
                    yield os.path.relpath(f"{directory}/{name}", root)
