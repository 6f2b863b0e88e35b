# PTH: a thousand accounts are looked at per scan: text and os calls serve, Path objects cost too much.
# ruff: noqa: PTH116
"""A look at an account's folders: enough to tell which of them changed, without looking into any mailbox.

A mail folder's *fingerprint* is made from the file numbers and modification times of `cur`, `new` and
`dovecot-keywords`; that of other folders from every file in them. A fingerprint younger than
`RACY_SECONDS` can't be trusted: another change within the same tick of the clock would leave it as it is.
It carries a `?` and never equals itself, so that the folder is listed again the next time.

A cursor is the fingerprints of all folders, as JSON.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import msgspec

from backupd.appservers.file_trees import DIRECTORY_OF_AREA, TreeFolder, walk
from backupd.appservers.maildir import mail_folders
from backupd.appservers.naming import shown
from backupd.decoding import decoder
from backupd.errors import AppServerUnavailable
from backupd.items import Area

RACY_SECONDS = 2.0
FolderKey = tuple[Area, str]


class SurveyedFolder(NamedTuple):
    """A folder as a survey finds it. `tree` is None for mail, whose messages are not looked at."""

    directory: str
    inode: int
    fingerprint: str
    tree: TreeFolder | None


Survey = dict[FolderKey, SurveyedFolder]


class Cursor(msgspec.Struct, frozen=True):
    """The fingerprints of an account's folders by area and folder."""

    version: int
    folders: dict[str, dict[str, str]]


_decoder = decoder(Cursor)
CURSOR_VERSION = 1


def cursor_of(survey: Survey) -> str:
    """Return the cursor that continues after a survey."""
    folders: dict[str, dict[str, str]] = {}
    for (area, folder), found in survey.items():
        folders.setdefault(area.value, {})[folder] = found.fingerprint
    return msgspec.json.encode(Cursor(CURSOR_VERSION, folders)).decode()


def fingerprints_of(cursor: str | None) -> dict[FolderKey, str] | None:
    """Return what a cursor holds, None where it is none of ours."""
    if cursor is None:
        return None
    try:
        decoded = _decoder.decode(cursor)
        if decoded.version != CURSOR_VERSION:
            return None
        return {
            (Area(area), folder): fingerprint
            for area, folders in decoded.folders.items()
            for folder, fingerprint in folders.items()
        }
    except (msgspec.DecodeError, ValueError):
        return None


def changed_since(survey: Survey, known: dict[FolderKey, str]) -> set[FolderKey]:
    """Return the folders that are not, or not surely, as they were; those that are gone among them."""
    changed = {
        key
        for key, found in survey.items()
        if known.get(key) != found.fingerprint or found.fingerprint.endswith("?")
    }
    return changed | (known.keys() - survey.keys())


def differing(earlier: Survey, later: Survey) -> set[FolderKey]:
    """Return the folders that changed between two surveys."""
    return {
        key
        for key in earlier.keys() | later.keys()
        if key not in earlier
        or key not in later
        or earlier[key].fingerprint.rstrip("?") != later[key].fingerprint.rstrip("?")
    }


def survey_account(root: str, path: str) -> Survey:
    """Look at all folders of an account; raises `AppServerUnavailable` that names what can't be read."""
    account = f"{root}/{path}"
    found: Survey = {}
    try:
        with os.scandir(account) as entries:
            present = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        racy_from = time.time_ns() - int(RACY_SECONDS * 1e9)
        for area, name in DIRECTORY_OF_AREA.items():
            if name not in present:
                continue
            if area is Area.MAIL:
                _survey_mail(f"{account}/{name}", racy_from, found)
            else:
                for folder, tree in walk(f"{account}/{name}", area).items():
                    mark = "?" if tree.changed >= racy_from else ""
                    found[area, folder] = SurveyedFolder(
                        tree.directory, tree.inode, tree.fingerprint + mark, tree
                    )
    except OSError as error:
        raise unavailable(error, root, path) from error
    return found


def _survey_mail(maildir: str, racy_from: int, found: Survey) -> None:
    for folder, name in mail_folders(maildir).items():
        directory = f"{maildir}/{name}" if name else maildir
        parts: list[str] = []
        latest = 0
        inode = 0
        for member in ("cur", "new", "dovecot-keywords"):
            try:
                facts = os.stat(f"{directory}/{member}", follow_symlinks=False)
            except FileNotFoundError:
                parts.append("-")
                continue
            inode = inode or facts.st_ino
            latest = max(latest, facts.st_mtime_ns)
            parts.append(f"{facts.st_ino:x}.{facts.st_mtime_ns:x}")
        mark = "?" if latest >= racy_from else ""
        found[Area.MAIL, folder] = SurveyedFolder(directory, inode, ":".join(parts) + mark, None)


def unavailable(error: OSError, root: str, path: str) -> AppServerUnavailable:
    """Return the error for a folder that can't be read, naming it."""
    where = error.filename if isinstance(error.filename, str) else f"{root}/{path}"
    return AppServerUnavailable(
        f"{shown(where)} can't be read: {error.strerror}",
        hint="is the mail storage mounted, and may the service's user read it?",
        path=shown(where),
    )
