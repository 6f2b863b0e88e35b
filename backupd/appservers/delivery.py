"""Puts items into the files of a mail host, as its own software would: for restores.

A message goes into `cur` under a unique name of ours, written aside in `tmp` first, its keywords through
`dovecot-keywords` under Dovecot's own lock. Other items are written aside and linked into place, so that no
existing file is ever overwritten. Everything gets the owner and the modes of the account's directory, and is
durable on return.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from backupd import durable
from backupd.appservers.base import Account
from backupd.appservers.file_trees import (
    ASIDE_PREFIX,
    COS_DIRECTORY,
    DIRECTORY_OF_AREA,
    LISTS_DIRECTORY,
    SUFFIX_OF_AREA,
)
from backupd.appservers.keywords import keyword_letters
from backupd.appservers.maildir import (
    FLAG_LETTERS,
    directory_name_of,
    mail_folders,
    mtime_of,
)
from backupd.appservers.naming import NAME_BYTES_MAX, checked_name, checked_path, raw
from backupd.appservers.writing import owned_like, told_apart, write
from backupd.errors import AppServerRefused
from backupd.items import Area

_counter = itertools.count(1)
_UNPLAIN = re.compile(r"[^A-Za-z0-9._@=+-]+")
_UNIQUE = re.compile(r"\d+\.M\d+P(\d+)Q\d+\.(.+)\Z")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


class Delivered(NamedTuple):
    """Where an item came to lie: the folder's directory and the file's path from there."""

    directory: Path
    name: str
    facts: os.stat_result


def deliver_message(account: Path, folder: str, metadata: Mapping[str, Any], content: BinaryIO) -> Delivered:
    """Store a message with flags, keywords and date. Raises `AppServerRefused`, `AppServerUnavailable`."""
    directory = make_mail_folder(account, folder)
    keywords = keyword_letters(directory, metadata.get("tags", ()))
    unique = unique_name()
    aside = directory / "tmp" / unique
    with told_apart(account):
        facts = write(str(aside), content, mtime_of(metadata.get("received")), account.stat())
        name = message_name(unique, facts.st_size, metadata, keywords)
        durable.step("delivery.message_written")
        # The name holds host, process and a counter: nobody else has it.
        aside.rename(directory / "cur" / name)
        _sync_name(directory / "cur" / name)
        return Delivered(directory, f"cur/{name}", facts)


def message_name(unique: str, size: int, metadata: Mapping[str, Any], keywords: Iterable[str]) -> str:
    """Return a message's file name in `cur`; `keywords` are the letters of its tags in that folder."""
    letters = {FLAG_LETTERS[word] for word in metadata.get("flags", ()) if word in FLAG_LETTERS}
    return f"{unique},S={size}:2,{''.join(sorted(letters.union(keywords)))}"


def deliver_file(
    account: Path, area: Area, folder: str, wanted: str, metadata: Mapping[str, Any], content: BinaryIO
) -> Delivered:
    """Store a contact, an appointment or a document under the wanted name, or the first free one like it."""
    directory = make_tree_folder(account, area, folder)
    aside = directory / f"{ASIDE_PREFIX}{unique_name()}"
    with told_apart(account):
        facts = write(str(aside), content, mtime_of(metadata.get("modified")), account.stat())
        name = link_aside(aside, directory, area, wanted, account)
        _sync_name(directory / checked_name(name))
        return Delivered(directory, name, facts)


def link_aside(aside: Path, directory: Path, area: Area, wanted: str, account: Path) -> str:
    """Give what was written aside the wanted name, or the first free one like it; return the name."""
    suffix = SUFFIX_OF_AREA.get(area, "")
    stem = wanted[: -len(suffix)] if suffix and wanted.lower().endswith(suffix) else wanted
    if area is Area.FILES:
        stem, dot, extension = wanted.rpartition(".")
        stem, suffix = (stem, dot + extension) if stem else (wanted, "")
    with told_apart(account):
        try:
            number, name = 1, f"{stem}{suffix}"
            while True:
                try:
                    os.link(aside, directory / checked_name(name), follow_symlinks=False)
                except FileExistsError:
                    number += 1
                    name = _numbered(stem, number, suffix)
                else:
                    return name
        finally:
            aside.unlink()


def _numbered(stem: str, number: int, suffix: str) -> str:
    """Return a name with a number in it; as much of the stem goes as that needs."""
    end = f"~{number}{suffix}"
    while stem and len(os.fsencode(raw(stem + end))) > NAME_BYTES_MAX:
        stem = stem[:-1]
    return stem + end


def _sync_name(path: Path) -> None:
    """Make a new name durable; where that fails it is taken back, so that another try makes no second one."""
    try:
        durable.step("delivery.named")
        durable.sync_directory(path.parent)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def file_name_for(area: Area, identifier: str) -> str:
    """Return a file name for an item whose photograph has none: its former id, made harmless."""
    room = NAME_BYTES_MAX - 20
    return (_UNPLAIN.sub("_", identifier).lstrip(".")[:room] or "item") + SUFFIX_OF_AREA.get(area, "")


def make_mail_folder(account: Path, folder: str) -> Path:
    """Make sure that a mail folder is there, with those above it left alone; return its directory."""
    maildir = account / DIRECTORY_OF_AREA[Area.MAIL]
    with told_apart(account):
        if not maildir.is_dir() or not (maildir / "cur").is_dir():
            _make_maildir(maildir, account)
        folders = mail_folders(str(maildir))
        known = folders.get(folder)
        directory = maildir / (directory_name_of(folder, folders) if known is None else known)
        if directory.is_symlink():
            raise AppServerRefused(f"the folder {folder!r} is a link", folder=folder)
        if known is None or not all((directory / part).is_dir() for part in ("cur", "new", "tmp")):
            _make_maildir(directory, account)
            if folder != "INBOX":
                marker = directory / "maildirfolder"
                marker.touch(mode=0o600)
                owned_like(marker, account)
        return directory


def _make_maildir(directory: Path, account: Path) -> None:
    for path in (directory, *(directory / part for part in ("cur", "new", "tmp"))):
        make_directory(path, account)
    durable.sync_directory(directory)
    durable.sync_directory(directory.parent)


def make_tree_folder(account: Path, area: Area, folder: str) -> Path:
    """Make sure that a folder of contacts, calendars or files is there; return its directory."""
    with told_apart(account):
        directory = account / DIRECTORY_OF_AREA[area]
        make_directory(directory, account)
        for name in checked_path(folder):
            if name.startswith(".") and area is not Area.FILES:
                raise AppServerRefused(f"a folder can't be named {name!r}", hint="it would be hidden")
            directory /= name
            make_directory(directory, account)
        return directory


def make_directory(path: Path, account: Path) -> None:
    """Make a directory like the account's own; what is there already stays, but a link is refused."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            raise AppServerRefused(f"{path.name!r} is there and is no directory", path=str(path)) from None
        return
    mode = stat.S_IMODE(account.stat().st_mode) | stat.S_IRWXU
    try:
        path.chmod(mode)
    except PermissionError:
        # A sandbox such as systemd's RestrictSUIDSGID refuses the set-group-id bit.
        path.chmod(mode & ~(stat.S_ISUID | stat.S_ISGID))
    owned_like(path, account)
    durable.sync_directory(path.parent)


def make_account(root: Path, account: Account, identifier: str) -> Path:
    """Make an account's directory with its account.toml and an empty Maildir; return the directory."""
    user, at, domain = account.name.rpartition("@")
    if not at:
        raise AppServerRefused(f"{account.name!r} is no address", hint="write user@domain", name=account.name)
    if domain in (COS_DIRECTORY, LISTS_DIRECTORY):
        raise AppServerRefused(f"no domain can be called {domain!r}: its directory holds other things")
    with told_apart(root):
        domain_directory = root / _domain_name(root, visible_name(domain))
        directory = domain_directory / visible_name(user)
        if directory.exists() or directory.is_symlink():
            raise AppServerRefused(f"the account {account.name!r} is there already", name=account.name)
        make_directory(domain_directory, root)
        aside = domain_directory / f"{ASIDE_PREFIX}{unique_name()}"
        try:
            make_directory(aside, domain_directory)
            attributes = {"id": identifier, **account.metadata}
            for derived in ("name", "domain"):
                attributes.pop(derived, None)
            durable.replace_file(aside / "account.toml", toml_of(attributes).encode("utf-8"))
            owned_like(aside / "account.toml", domain_directory)
            _make_maildir(aside / DIRECTORY_OF_AREA[Area.MAIL], domain_directory)
            aside.rename(directory)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        durable.sync_directory(domain_directory)
    return directory


def _domain_name(root: Path, domain: str) -> str:
    """Return the name of a domain's directory: case makes no difference between domains (RFC 4343)."""
    same = [one for one in os.listdir(root) if one.casefold() == domain.casefold()]  # noqa: PTH208 - names
    return domain if domain in same or not same else same[0]


def visible_name(name: str) -> str:
    """Return the file name for a name from outside that must not be hidden. Raises `AppServerRefused`."""
    checked = checked_name(name)
    if checked.startswith("."):
        raise AppServerRefused(f"{name!r} would be hidden", name=name)
    return checked


def toml_of(attributes: Mapping[str, Any]) -> str:
    """Return attributes as TOML, nested ones as inline tables; null values are left out."""
    return "".join(
        f"{_toml_key(key)} = {_toml_value(value)}\n" for key, value in attributes.items() if value is not None
    )


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.match(key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    match value:
        case dict():
            pairs = (
                f"{_toml_key(key)} = {_toml_value(each)}" for key, each in value.items() if each is not None
            )
            return "{" + ", ".join(pairs) + "}"
        case list() | tuple():
            return "[" + ", ".join(_toml_value(each) for each in value if each is not None) + "]"
        case float():
            return repr(value)
        case _:
            # JSON's strings, numbers and truth values are TOML's, but for DEL, which TOML wants escaped.
            return msgspec.json.encode(value).decode("utf-8").replace("\x7f", "\\u007f")


def unique_name() -> str:
    """Return a name as the Maildir specification wants it: time, process and counter, host."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{seconds}.M{rest // 1000:06d}P{os.getpid()}Q{next(_counter)}.{_host()}"


def writer_of(name: str) -> int | None:
    """Return the process on this host that made a name of ours, None where it is none."""
    found = _UNIQUE.search(name)
    return int(found[1]) if found is not None and found[2] == _host() else None


@functools.cache
def _host() -> str:
    return _UNPLAIN.sub("_", socket.gethostname().replace("/", "_")) or "localhost"
