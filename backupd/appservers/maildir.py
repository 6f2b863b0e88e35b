# PTH: millions of files are looked at: text and os calls serve, Path objects cost too much.
# ruff: noqa: PTH112, PTH114, PTH116
"""Maildir++ on disk: names of messages and folders, flags, Dovecot's keywords, and listing without opening.

A message's file name is `<base>:2,<flags>`; the base never changes while the message stays where it is.
Capital letters are system flags, `a` to `z` are keywords whose names stand in the folder's
`dovecot-keywords`. `new/` holds messages no client has seen; they have no flags. A folder `A/B` is the
directory `.A.B` beside INBOX's `cur`, its names in modified UTF-7. Only regular files in `new` and `cur`
count; names that begin with a dot, links, sockets and the like don't.

A listing may race with renames: `readdir` may miss a file that is renamed meanwhile. `scan_folder`
therefore reads again until the directories stood still, and takes all it ever saw where they never do.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Container
from datetime import UTC, datetime, timedelta

import msgspec

from backupd.appservers.naming import checked_name, from_utf7, raw, shown, to_utf7
from backupd.clock import moment, written
from backupd.errors import AppServerRefused

INBOX = "INBOX"
KEYWORDS_MAX = 26
SCANS_MAX = 6
SETTLE_SECONDS = 0.02
FLAG_WORDS = {
    "D": "draft",
    "F": "flagged",
    "P": "forwarded",
    "R": "answered",
    "S": "seen",
    "T": "deleted",
}
FLAG_LETTERS = {word: letter for letter, word in FLAG_WORDS.items()}
_KEYWORD_LINE = re.compile(r"(\d+) (.+)")
Keywords = dict[str, str]


class Found(msgspec.Struct, frozen=True):
    """A message's file as a scan finds it: `place` is `cur` or `new`, `name` the file's whole name."""

    place: str
    name: str
    inode: int


def base_of(name: str) -> str:
    """Return the part of a message's file name that does not change with its flags."""
    base = name.partition(":")[0]
    return base or name


def letters_of(name: str) -> str:
    """Return the letters after `:2,`."""
    return name.rpartition(":2,")[2] if ":2," in name else ""


def flags_of(name: str) -> list[str]:
    """Return a message's system flags in words, sorted."""
    return sorted({FLAG_WORDS[letter] for letter in letters_of(name) if letter in FLAG_WORDS})


def tags_of(name: str, keywords: Keywords) -> list[str]:
    """Return a message's keywords by name, sorted; letters that have no name yet are left out."""
    letters = letters_of(name)
    return sorted({keywords[letter] for letter in letters if letter in keywords}) if keywords else []


def received_of(mtime_ns: int) -> str:
    """Return when a message was received: its file's modification time."""
    try:
        return written(moment(mtime_ns // 1000))
    except OverflowError:
        return written(moment(0))


def mtime_of(received: object) -> int | None:
    """Return the modification time in nanoseconds for a photograph's `received` or `modified`."""
    if not isinstance(received, str):
        return None
    try:
        when = datetime.fromisoformat(received)
        return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    except (ValueError, TypeError, OverflowError):
        return None


def message_metadata(folder: str, found: Found, mtime_ns: int, keywords: Keywords) -> dict[str, object]:
    """Return what a listing tells of a message without opening it."""
    seen = found.place == "cur"
    return {
        "folder": folder,
        "flags": flags_of(found.name) if seen else [],
        "tags": tags_of(found.name, keywords) if seen else [],
        "received": received_of(mtime_ns),
    }


def parse_keywords(content: bytes) -> Keywords:
    """Return letter → keyword of a `dovecot-keywords` file; lines that are none are passed over."""
    keywords: Keywords = {}
    for line in content.decode("utf-8", "replace").splitlines():
        if (match := _KEYWORD_LINE.match(line)) and (number := int(match.group(1)[:4])) < KEYWORDS_MAX:
            keywords[chr(ord("a") + number)] = match.group(2)
    return keywords


def read_keywords(directory: str) -> Keywords:
    """Return the keywords of a mail folder's directory."""
    try:
        descriptor = os.open(f"{directory}/dovecot-keywords", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        return parse_keywords(os.read(descriptor, 65536))
    except OSError:
        return {}
    finally:
        os.close(descriptor)


def mail_folders(maildir: str) -> dict[str, str]:
    """Return folder path → directory name ("" for INBOX) of a Maildir++; raises `OSError`.

    Where two directories would show as one path (`.INBOX`, a name in plain UTF-8 beside the same in UTF-7),
    the later in sorting order carries its directory's name.
    """
    found: dict[str, str] = {}
    names: list[str] = []
    with os.scandir(maildir) as entries:
        for entry in entries:
            name = entry.name
            if name in ("cur", "new"):
                found[INBOX] = ""
            elif (
                name[0] == "."
                and name[1:2] not in ("", ".")
                and entry.is_dir(follow_symlinks=False)
                and not name.endswith(".")
                and ".." not in name
            ):
                names.append(name)
    for name in sorted(names):
        if not _is_mail_folder(f"{maildir}/{name}"):
            continue
        path = _path_of(name)
        found[path if path not in found else shown(name)] = name
    return found


def _path_of(name: str) -> str:
    return "/".join(shown(from_utf7(part)) for part in name[1:].split("."))


def _is_mail_folder(directory: str) -> bool:
    return any(os.path.isdir(f"{directory}/{place}") for place in ("cur", "new"))


def directory_name_of(folder: str, known: Container[str] = ()) -> str:
    """Return the directory name for a folder path that has no directory yet ("" for INBOX).

    `known` are the paths that are there: beside them a path such as `.INBOX` is a directory's own name.
    """
    if folder == INBOX:
        return ""
    if folder.startswith(".") and _path_of(raw(folder)) in known:
        return checked_name(folder)
    if "." in folder:
        raise AppServerRefused(
            f"a Maildir++ folder can't be named {folder!r}", hint="its names hold no dot", folder=folder
        )
    return checked_name("." + ".".join(_name_of(part) for part in folder.split("/")))


def _name_of(part: str) -> str:
    """Return one part of a folder's path as a directory's name has it."""
    name = checked_name(part)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        # Bytes that are no UTF-8 were shown one by one; no UTF-7 can say them.
        return name
    return to_utf7(name)


def scan_folder(directory: str) -> dict[str, Found]:
    """Return base → file of all messages in a mail folder; raises `OSError` where one can't be read.

    Two files of one base are told apart: the second is known by its whole name.
    """
    seen: dict[str, Found] = {}
    for attempt in range(SCANS_MAX):
        before = _moved_at(directory)
        latest = _scan_once(directory)
        settled = time.time() - max(before) / 1e9 > SETTLE_SECONDS
        if before == _moved_at(directory) and (settled or attempt):
            return latest
        seen |= latest
        time.sleep(SETTLE_SECONDS)
    # The folder never stood still. What any scan saw counts as there: a message taken for present is found
    # gone by the next listing, one taken for deleted would stand in a history for good.
    return seen | latest


def _moved_at(directory: str) -> tuple[int, int]:
    return directory_mtime(directory, "new"), directory_mtime(directory, "cur")


def directory_mtime(directory: str, name: str) -> int:
    """Return the modification time (ns) of a directory's member, links not followed; 0 without it."""
    try:
        return os.stat(f"{directory}/{name}", follow_symlinks=False).st_mtime_ns
    except FileNotFoundError:
        return 0


def _scan_once(directory: str) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for place in ("new", "cur"):
        path = f"{directory}/{place}"
        try:
            if os.path.islink(path):
                continue
            entries = os.scandir(path)
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                name = entry.name
                if name[0] == "." or not entry.is_file(follow_symlinks=False):
                    continue
                base = name.partition(":")[0] or name
                inode = entry.inode()
                other = found.get(base)
                if other is not None and other.inode != inode:
                    base = name
                found[base] = Found(place, name, inode)
    return found
