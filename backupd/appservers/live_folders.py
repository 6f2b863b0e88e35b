"""Live changes of folders and accounts: told by listing what changed and comparing with what was known.

Files may be in a new directory before anybody watched it, and a renamed folder takes its messages along
without a hint for any: so the account's changed folders are listed, soon and once more a little later.

The *sweep* makes up for what the operating system does not tell: when its queue of hints overflows, or no
more directories can be watched, watchfiles stays silent (it drops the notify crate's rescan events). In
turn, some accounts at a time, the sweep looks at the folders' fingerprints; a folder that changed is listed,
and what was not told by then is told, and its account counts as missed.

More than `RELIST_CHANGES_MAX` differences at once are not told one by one: the account counts as missed. So
it does when all of an area, or many accounts, disappear at once: that looks like a lost mount.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import structlog

from backupd.appservers.file_trees import COS_DIRECTORY, DIRECTORY_OF_AREA, LISTS_DIRECTORY
from backupd.appservers.identity import Identity, Row
from backupd.appservers.listing import Comparison, Lister, folder_directory
from backupd.appservers.live_changes import Teller
from backupd.appservers.maildir import mail_folders
from backupd.appservers.registry import Place
from backupd.appservers.survey import changed_since, cursor_of, fingerprints_of, survey_account
from backupd.errors import AppServerUnavailable, ItemVanished
from backupd.items import Area
from backupd.states import ChangeType

SOON_SECONDS = 0.03
AGAIN_SECONDS = 0.5
CALM_SECONDS = 2.5
"""A folder that changed this recently is left to the hints, and swept later."""
SWEEP_SECONDS = 30.0
RELIST_CHANGES_MAX = 1000
VANISHED_ACCOUNTS_MAX = 3
VANISHED_ITEMS_MAX = 20
_NOTHING = cursor_of({})
log = structlog.get_logger(__name__)


class LiveFolders:
    """Knows accounts and folders while they are watched. `places` reads all accounts anew."""

    def __init__(
        self,
        root: str,
        *,
        lister: Lister,
        identity: Identity,
        teller: Teller,
        places: Callable[[], list[Place]],
        lock: Callable[[str], AbstractContextManager[object]],
    ) -> None:
        self._root = root
        self._lister = lister
        self._identity = identity
        self._teller = teller
        self._read_places = places
        self._lock = lock
        self._places = {place.account.id: place for place in places()}
        self._by_path = {place.path: place for place in self._places.values()}
        self._mail: dict[str, dict[str, str]] = {}
        self._cursors: dict[str, str] = {}
        self._due: dict[str, list[float]] = {}
        self._new: set[str] = set()
        self._accounts_due: float | None = None
        self._turn: Iterator[str] = iter(())
        self._turn_began = float("-inf")
        self._unreadable: set[str] = set()
        self._later: dict[str, float] = {}
        self._noted: deque[tuple[str, Comparison]] = deque()

    def place_of(self, path: str) -> Place | None:
        """Return the account at `<domain>/<user>`, None where none is known."""
        return self._by_path.get(path)

    def account_touched(self, parts: list[str], now: float) -> None:
        """Note that a domain, an account's directory or its TOML file was touched."""
        if not parts or (parts[0] not in (COS_DIRECTORY, LISTS_DIRECTORY) and parts[-1] != "domain.toml"):
            self._accounts_due = now + SOON_SECONDS

    def touched(self, account: str, now: float) -> None:
        """Note that an account's folders are to be compared."""
        self._mail.pop(account, None)
        self._due.setdefault(account, [now + SOON_SECONDS, now + AGAIN_SECONDS])

    def mail_folder(self, account: str, name: str) -> str | None:
        """Return the folder path of a directory in an account's Maildir ("" is INBOX), None if it is none."""
        known = self._mail.get(account)
        if known is None or name not in known:
            path = f"{self._root}/{self._places[account].path}/{DIRECTORY_OF_AREA[Area.MAIL]}"
            try:
                known = {directory: folder for folder, directory in mail_folders(path).items()}
            except OSError:
                known = {}
            self._mail[account] = known
        return known.get(name)

    def directory_of(self, account: str, area: Area, folder: str) -> str | None:
        """Return where a folder lies below the root, None if it is gone."""
        try:
            return folder_directory(self._root, self._places[account].path, area, folder)
        except ItemVanished:
            return None

    def is_folder(self, account: str, area: Area, folder: str, path: str) -> bool:
        """Tell whether a folder is there (`path` below the root), or was known."""
        if path and Path(self._root, path).is_dir():
            return True
        known = self._identity.folders(account)
        return any((row.area, row.folder) == (area.value, folder) for row in known)

    def note(self, account: str, compared: Comparison) -> None:
        """Take up what another listing found, and forgot before its hint came. From any thread."""
        if compared.before or compared.folders_before != compared.folders_now:
            self._noted.append((account, compared))

    def look(self, now: float) -> None:
        """Compare the accounts and folders that are due."""
        while self._noted:
            account, compared = self._noted.popleft()
            if account in self._places:
                self._tell(account, compared, only_moves=True)
        if self._accounts_due is not None and self._accounts_due <= now:
            self._accounts_due = None
            self._compare_accounts(now)
        for account in [each for each, times in self._due.items() if times[0] <= now]:
            times = self._due[account]
            while times and times[0] <= now:
                times.pop(0)
            if not times:
                del self._due[account]
            if account in self._places:
                self._compare(account)

    def _compare_accounts(self, now: float) -> None:
        latest = {place.account.id: place for place in self._read_places()}
        gone = self._places.keys() - latest.keys()
        believed = len(gone) <= max(VANISHED_ACCOUNTS_MAX, len(self._places) // 2)
        for account in sorted(gone):
            if believed:
                self._teller.account(account, ChangeType.DELETED)
            else:
                self._teller.missed(account)
            self._cursors.pop(account, None)
            self._mail.pop(account, None)
        if not believed:
            log.warning("accounts_vanished", accounts=len(gone), of=len(self._places))
        for account, place in latest.items():
            before = self._places.get(account)
            if before is None:
                self._teller.account(account, ChangeType.CREATED, place.account.metadata)
                self._cursors[account] = _NOTHING
                self._new.add(account)
                self._due[account] = [now, now + AGAIN_SECONDS]
            elif before.account.metadata != place.account.metadata:
                self._teller.account(account, ChangeType.MODIFIED, place.account.metadata)
        self._places = latest
        self._by_path = {place.path: place for place in latest.values()}

    def _compare(self, account: str) -> int:
        """List an account's changed folders, tell what differs from before, and return how much that was."""
        place = self._places[account]
        with self._lock(account):
            try:
                compared = self._lister.compare_account(account, place.path, self._cursors.get(account))
            except AppServerUnavailable:
                # What is wrong with it the scan of the account will say.
                self._teller.missed(account)
                return 0
            self._cursors[account] = compared.listing.cursor
            self._mail.pop(account, None)
            if account in self._new:
                # What was put into it before it was seen got its id then, and was told to nobody.
                self._new.discard(account)
                compared = _without_former(compared)
            return self._tell(account, compared)

    def _tell(self, account: str, compared: Comparison, *, only_moves: bool = False) -> int:
        """Tell what differs; with `only_moves` only what no hint tells: what is gone, and where it went."""
        known = {row.id: row for row in compared.before}
        now = {row.id: row for row in compared.now}
        differing = [
            row
            for row in compared.now
            if known.get(row.id) != row
            and not (only_moves and (row.id not in known or known[row.id].folder == row.folder))
        ]
        gone = [row for row in compared.before if row.id not in now]
        if len(differing) + len(gone) > RELIST_CHANGES_MAX or self._is_lost_area(gone, compared):
            self._teller.missed(account)
            return 0
        told = self._tell_folders(account, compared, gone=False)
        for row in differing:
            before = known.get(row.id)
            if self._teller.was_told(account, row):
                continue
            directory = compared.directories[Area(row.area), row.folder]
            change = (
                ChangeType.CREATED
                if before is None
                else ChangeType.MODIFIED
                if before.folder == row.folder
                else ChangeType.MOVED
            )
            with_body = before is None or (before.size, before.mtime) != (row.size, row.mtime)
            told += self._teller.item(account, row, directory, change, with_body=with_body) is not None
        for row in gone:
            if not only_moves or not self._identity.is_taken(account, row.id):
                self._teller.item_deleted(account, row)
        return told + len(gone) + self._tell_folders(account, compared, gone=True)

    @staticmethod
    def _is_lost_area(gone: Iterable[Row], compared: Comparison) -> bool:
        areas = {row.area for row in compared.folders_now}
        return sum(row.area not in areas for row in gone) > VANISHED_ITEMS_MAX

    def _tell_folders(self, account: str, compared: Comparison, *, gone: bool) -> int:
        if compared.listing.scope == frozenset():
            return 0
        before = {row.id: row for row in compared.folders_before}
        now = {row.id: row for row in compared.folders_now}
        if gone:
            vanished = [row for row in before.values() if row.id not in now]
            for row in vanished:
                self._teller.folder(account, row, ChangeType.DELETED)
            return len(vanished)
        differing = [
            row for row in now.values() if row.id not in before or before[row.id].folder != row.folder
        ]
        for row in differing:
            self._teller.folder(account, row, ChangeType.MOVED if row.id in before else ChangeType.CREATED)
        return len(differing)

    def sweep_now(self) -> None:
        """Begin a sweep at once: hints were lost. Accounts not swept before are compared as a whole."""
        for account in self._places:
            self._cursors.setdefault(account, _NOTHING)
        self._turn = iter(list(self._places))
        self._turn_began = time.monotonic()
        self._later.clear()

    def sweep(self, seconds_max: float, *, busy: Iterable[str]) -> None:
        """Sweep some more accounts, for at most about so long; a round takes `SWEEP_SECONDS` or longer."""
        began = time.monotonic()
        waiting = set(busy) | self._due.keys()
        while time.monotonic() - began < seconds_max:
            account = next(self._turn, None) or self._next_later(began)
            if account is None:
                if began - self._turn_began >= SWEEP_SECONDS:
                    self._turn = iter(list(self._places))
                    self._turn_began = began
                return
            if account in self._places and account not in waiting:
                self._sweep_account(account, began)

    def _next_later(self, now: float) -> str | None:
        account = next((each for each, due in self._later.items() if due <= now), None)
        if account is not None:
            del self._later[account]
        return account

    def _sweep_account(self, account: str, now: float) -> None:
        place = self._places[account]
        known = fingerprints_of(self._cursors.get(account))
        try:
            survey = survey_account(self._root, place.path)
        except AppServerUnavailable as error:
            self._accounts_due = self._accounts_due or now
            if account not in self._unreadable:
                log.warning("account_unreadable", account=place.account.name, reason=str(error))
                self._unreadable.add(account)
                self._teller.missed(account)
            return
        self._unreadable.discard(account)
        if known is None:
            self._cursors[account] = cursor_of(survey)
            return
        changed = changed_since(survey, known)
        if any(key in survey and survey[key].fingerprint.endswith("?") for key in changed):
            self._later[account] = now + CALM_SECONDS
        elif changed and (missed := self._compare(account)):
            log.warning("changes_missed", account=place.account.name, changes=missed)
            self._teller.missed(account)


def _without_former(compared: Comparison) -> Comparison:
    """Return a comparison in which all that is there is new; what is gone stays gone."""
    items = {row.id for row in compared.now}
    folders = {row.id for row in compared.folders_now}
    return compared._replace(
        before=[row for row in compared.before if row.id not in items],
        folders_before=[row for row in compared.folders_before if row.id not in folders],
    )
