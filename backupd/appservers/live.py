# PTH: every event looks at its file: text and os calls serve, Path objects cost too much.
# ruff: noqa: PTH116
"""What a touched path means: changes of items, from hints by inotify and from what is there now.

A hint says only that something happened at a path. The tracker looks at what is there, compares it with
what is known of that place (`identity`), and tells the difference as changes with whole photographs.

- A file that is gone may have been renamed: only if it does not reappear within `SETTLE_SECONDS` under the
  same base, or the same file number, is it deleted.
- A message that appears while another name of the same file is still there may be a copy, or a move whose
  second half has yet to come (Dovecot links, then removes): it waits as long.
- What concerns folders and accounts goes to `live_folders`, which lists and tells the difference.

Blocks; called from one thread at a time.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from backupd.appservers.base import Watched
from backupd.appservers.file_trees import DIRECTORY_OF_AREA, is_item_name
from backupd.appservers.identity import Identity, Row
from backupd.appservers.listing import derived_item_id
from backupd.appservers.live_changes import Teller
from backupd.appservers.live_folders import LiveFolders
from backupd.appservers.maildir import Keywords, base_of, letters_of, read_keywords
from backupd.appservers.matching import Seen, suffixed
from backupd.appservers.naming import raw, shown
from backupd.items import Area
from backupd.states import ChangeType

SETTLE_SECONDS = 0.06
GROWING_SECONDS_MAX = 3.0
"""A file being written is told once it was left alone for `SETTLE_SECONDS`, or after this long."""
PENDING_MAX = 50_000
"""More things than this are not waited for: their accounts count as missed."""
NAMELESS_MAX = 1000
"""Messages of a folder whose keywords have no name yet; more, and the account counts as missed."""
_AREAS = {name: area for area, name in DIRECTORY_OF_AREA.items()}


class Spot(NamedTuple):
    """A place where an item may be: `directory` lies below the root, `name` below the directory."""

    account: str
    area: Area
    folder: str
    directory: str
    name: str

    @property
    def base(self) -> str:
        """What names the item within its folder."""
        return shown(base_of(self.name.rpartition("/")[2]) if self.area is Area.MAIL else self.name)

    @property
    def file(self) -> str:
        """The path below the root."""
        return f"{self.directory}/{self.name}"


class Waiting(NamedTuple):
    """What is looked at again, from `since` on at the latest of all waits."""

    due: float
    since: float


class Tracker:
    """Turns hints into changes. `lock` serialises work on one account with the server's other work."""

    def __init__(
        self,
        root: str,
        *,
        identity: Identity,
        folders: LiveFolders,
        teller: Teller,
        lock: Callable[[str], AbstractContextManager[object]],
    ) -> None:
        self._root = root
        self._identity = identity
        self._folders = folders
        self._teller = teller
        self._lock = lock
        self._pending: dict[Spot, Waiting] = {}
        self._nameless: dict[str, set[Spot]] = {}
        self._keywords: dict[str, Keywords] = {}

    def look(self, paths: Iterable[str]) -> Watched:
        """Look at touched paths (absolute), and at what is due; return what that tells."""
        now = time.monotonic()
        spots = {spot for path in paths for spot in self._spots(path[len(self._root) + 1 :], now)}
        due = {spot: wait for spot, wait in self._pending.items() if wait.due <= now}
        for spot in due:
            del self._pending[spot]
        # What is there comes first: it explains much of what is gone.
        gone: list[Spot] = []
        for spot in sorted(spots | due.keys()):
            with self._lock(spot.account):
                if not self._look_at(spot, due.get(spot), now):
                    gone.append(spot)
        for spot in gone:
            with self._lock(spot.account):
                self._look_at_gone(spot, due.get(spot), now)
        self._folders.look(now)
        return self._teller.take()

    def sweep_now(self) -> None:
        """Begin a sweep at once: hints were lost."""
        self._folders.sweep_now()

    def sweep(self, seconds_max: float) -> Watched:
        """Compare some more accounts with what is known, in turn, for so long; return what was missed."""
        self._folders.sweep(seconds_max, busy={spot.account for spot in self._pending})
        return self._teller.take()

    def _spots(self, path: str, now: float) -> list[Spot]:
        """Return the places of items that a touched path means; folders and accounts are noted aside."""
        domain, user, top, *below = [*path.split("/"), "", "", ""]
        if domain[:1] == ".":
            return []  # The holding area, or somebody else's: no domain is called so.
        below = [name for name in below if name]
        place = self._folders.place_of(f"{domain}/{user}")
        if place is None or not top or (top == "account.toml" and not below):
            self._folders.account_touched([name for name in (domain, user, top) if name], now)
            return []
        area = _AREAS.get(top)
        account = place.account.id
        if area is Area.MAIL and below:
            return self._mail_spots(account, f"{domain}/{user}/{top}", below, now)
        if area is not None and below:
            return self._tree_spots(account, area, path, below, now)
        if area is not None:
            self._folders.touched(account, now)
        return []

    def _tree_spots(self, account: str, area: Area, path: str, below: list[str], now: float) -> list[Spot]:
        """Return the contact, appointment or document that a path below its area's directory means."""
        folder = "/".join(shown(name) for name in below[:-1])
        if is_item_name(area, below[-1]):
            return [Spot(account, area, folder, path.rpartition("/")[0], below[-1])]
        # A folder, or another software's file; which of both is a question to what is known, too.
        if self._folders.is_folder(account, area, f"{folder}/{shown(below[-1])}".lstrip("/"), path):
            self._folders.touched(account, now)
        return []

    def _mail_spots(self, account: str, maildir: str, below: list[str], now: float) -> list[Spot]:
        """Return the message that `[.Folder/](cur|new)/<name>` below a Maildir means."""
        folder_name = below[0] if below[0].startswith(".") else ""
        directory = f"{maildir}/{folder_name}" if folder_name else maildir
        match below[1:] if folder_name else below:
            case [] | ["cur"] | ["new"]:
                self._folders.touched(account, now)
            case ["dovecot-keywords"]:
                return self._renamed_keywords(account, directory)
            case ["cur" | "new" as where, name] if not name.startswith("."):
                folder = self._folders.mail_folder(account, folder_name)
                if folder is not None:
                    return [Spot(account, Area.MAIL, folder, directory, f"{where}/{name}")]
                self._folders.touched(account, now)
            case _:
                pass
        return []

    def _renamed_keywords(self, account: str, directory: str) -> list[Spot]:
        """Return the messages with nameless keywords: Dovecot writes the names after it used the letters."""
        latest = read_keywords(f"{self._root}/{directory}")
        known = self._keywords.get(directory, latest)
        if any(latest.get(letter, name) != name for letter, name in known.items()):
            # Letters were given to other keywords: any message of the folder may be meant.
            self._teller.missed(account)
        self._keywords[directory] = latest
        spots = list(self._nameless.pop(directory, ()))
        for spot in spots:
            known_row = self._identity.at(account, spot.area, spot.folder, spot.base)
            if known_row is not None:
                self._teller.forget(account, known_row)
        return spots

    def _note_keywords(self, spot: Spot) -> None:
        """Remember a message that carries a letter without a name, and what names there are."""
        letters = {letter for letter in letters_of(spot.name) if letter.islower()}
        if spot.area is not Area.MAIL or not letters:
            return
        named = self._keywords.setdefault(spot.directory, read_keywords(f"{self._root}/{spot.directory}"))
        if letters - named.keys():
            nameless = self._nameless.setdefault(spot.directory, set())
            nameless.add(spot)
            if len(nameless) > NAMELESS_MAX:
                self._nameless.pop(spot.directory)
                self._teller.missed(spot.account)

    def _look_at(self, spot: Spot, waited: Waiting | None, now: float) -> bool:
        """Tell what is at a place; False if nothing is there."""
        try:
            facts = os.stat(f"{self._root}/{spot.file}", follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            self._teller.missed(spot.account)
            return True
        if stat.S_ISDIR(facts.st_mode):
            self._folders.touched(spot.account, now)
        elif stat.S_ISREG(facts.st_mode):
            self._look_at_file(spot, facts, waited, now)
        return True

    def _look_at_file(self, spot: Spot, facts: os.stat_result, waited: Waiting | None, now: float) -> None:
        if spot.area is not Area.MAIL and self._is_growing(facts, waited, now):
            self._wait(spot, waited, now)
            return
        known = self._identity.at(spot.account, spot.area, spot.folder, spot.base)
        row = Row(
            area=spot.area.value,
            folder=spot.folder,
            base=spot.base,
            inode=facts.st_ino,
            size=facts.st_size,
            mtime=facts.st_mtime_ns,
            id="" if known is None else known.id,
            kind="" if known is None else known.kind,
            name=shown(spot.name),
        )
        if known is not None:
            self._tell_known(spot, known, row)
            return
        origins = [
            each
            for each in self._identity.by_inode(spot.account, spot.area, facts.st_ino)
            if (each.size, each.mtime) == (row.size, row.mtime)
        ]
        left = [each for each in origins if not self._is_there(spot.account, each)]
        if left:
            self._tell(spot, row._replace(id=left[0].id), ChangeType.MOVED, origin=left[0])
        elif origins and waited is None:
            self._wait(spot, None, now)
        else:
            self._tell(spot, row._replace(id=self._new_id(spot, row)), ChangeType.CREATED)

    @staticmethod
    def _is_growing(facts: os.stat_result, waited: Waiting | None, now: float) -> bool:
        young = 0 <= time.time() - facts.st_mtime < SETTLE_SECONDS
        return young and (waited is None or now - waited.since < GROWING_SECONDS_MAX)

    def _tell_known(self, spot: Spot, known: Row, row: Row) -> None:
        if self._teller.was_told(spot.account, row):
            return
        renamed = known.name != row.name
        same_content = (known.size, known.mtime) == (row.size, row.mtime)
        self._tell(spot, row, ChangeType.MODIFIED, with_body=not (same_content and renamed))

    def _tell(
        self, spot: Spot, row: Row, change: ChangeType, *, origin: Row | None = None, with_body: bool = False
    ) -> None:
        body = with_body or change is ChangeType.CREATED
        told = self._teller.item(spot.account, row, spot.directory, change, with_body=body)
        if told is not None:
            gone = [] if origin is None else [origin]
            self._identity.save(spot.account, gone=gone, seen=[told])
            self._note_keywords(spot)

    def _new_id(self, spot: Spot, row: Row) -> str:
        seen = Seen(row.area, row.folder, row.base, row.inode, row.size, row.mtime, row.kind, row.name)
        wanted = derived_item_id(spot.account, seen)
        return next(each for each in suffixed(wanted) if not self._identity.is_taken(spot.account, each))

    def _is_there(self, account: str, row: Row) -> bool:
        directory = self._folders.directory_of(account, Area(row.area), row.folder)
        return directory is not None and os.path.lexists(f"{self._root}/{directory}/{raw(row.name)}")

    def _wait(self, spot: Spot, waited: Waiting | None, now: float) -> None:
        if len(self._pending) >= PENDING_MAX:
            self._teller.missed(spot.account)
            return
        since = now if waited is None else waited.since
        self._pending.setdefault(spot, Waiting(now + SETTLE_SECONDS, since))

    def _look_at_gone(self, spot: Spot, waited: Waiting | None, now: float) -> None:
        """Tell a deletion, unless what was there is known under another name by now or may yet appear."""
        known = self._identity.at(spot.account, spot.area, spot.folder, spot.base)
        if known is None:
            below = f"{spot.folder}/{shown(spot.name)}".lstrip("/")
            if spot.area is not Area.MAIL and self._folders.is_folder(spot.account, spot.area, below, ""):
                self._folders.touched(spot.account, now)
        elif known.name != shown(spot.name):
            pass
        elif waited is None:
            self._wait(spot, None, now)
        else:
            self._identity.save(spot.account, gone=[known])
            self._teller.item_deleted(spot.account, known)
