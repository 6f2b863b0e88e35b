# PTH: hundreds of files at a time are written here: os calls serve, Path objects cost too much.
# ruff: noqa: PTH104, PTH108, PTH208
"""Puts many items into the files of a mail host together: for restores of whole accounts.

All are written aside, made durable by one sync of the file system, given their names, and the directories are
synced once each. What `delivery` promises of one item holds for each: owner and modes, nothing overwritten,
durable on return, nothing left of what could not be put. An item that fails fails alone. What can't be taken
back, because the storage is away by then, is taken back before anything else is put. What a killed process
leaves aside is removed by the next one that puts something into the same folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backupd import durable
from backupd.appservers import delivery
from backupd.appservers.base import Content
from backupd.appservers.delivery import Delivered
from backupd.appservers.file_trees import ASIDE_PREFIX
from backupd.appservers.keywords import is_alive, keyword_letters
from backupd.appservers.maildir import mtime_of, read_keywords
from backupd.appservers.writing import told_apart, write
from backupd.errors import AppServerUnavailable, BackupdError
from backupd.items import Area


class Arrival(NamedTuple):
    """An item to be put: `name` is the file name it would like to have, empty for a message."""

    area: Area
    folder: str
    name: str
    metadata: Mapping[str, Any]
    content: Content


class _Aside(NamedTuple):
    """An item that is written, but has no name yet."""

    arrival: Arrival
    directory: Path
    path: str
    facts: os.stat_result


Ended = Delivered | BackupdError


def deliver_many(account: Path, arrivals: Sequence[Arrival], unremoved: set[str]) -> list[Ended]:
    """Put items into an account's directory; return for each where it lies, or why it could not be put.

    `unremoved` are the paths of what could not be taken back yet; who puts again hands the same set in.
    Raises `AppServerUnavailable` as long as it can't be.
    """
    _take_back(account, unremoved, ())
    if unremoved:
        raise AppServerUnavailable(
            f"{account}: what was put in part can't be taken back yet", hint="is the mail storage mounted?"
        )
    return _Deliveries(account, unremoved).run(arrivals)


def _take_back(account: Path, unremoved: set[str], paths: Iterable[str]) -> None:
    """Remove files of what could not be put; those that can't be removed now are in `unremoved` then."""
    for path in [*unremoved, *paths]:
        try:
            os.unlink(path)
        except OSError as error:
            if not (isinstance(error, FileNotFoundError) and account.is_dir()):
                unremoved.add(path)
                continue
        unremoved.discard(path)


class _Deliveries:
    """One group, and what was looked up for it already."""

    def __init__(self, account: Path, unremoved: set[str]) -> None:
        self._account = account
        self._unremoved = unremoved
        self._folders: dict[tuple[Area, str], Path | BackupdError] = {}
        self._letters: dict[Path, dict[str, str] | BackupdError] = {}
        self._like: os.stat_result | None = None

    def run(self, arrivals: Sequence[Arrival]) -> list[Ended]:
        """Put all, as `deliver_many`."""
        steps: list[_Aside | Ended] = [self._aside(one) for one in arrivals]
        written = [one for one in steps if isinstance(one, _Aside)]
        if not written:
            return [one for one in steps if not isinstance(one, _Aside)]
        try:
            with told_apart(self._account):
                durable.sync_file_system(self._account)
                durable.step("deliveries.contents_synced")
        except BackupdError as error:
            _remove(one.path for one in written)
            return [error if isinstance(one, _Aside) else one for one in steps]
        return self._synced([self._named(one) if isinstance(one, _Aside) else one for one in steps])

    def _aside(self, one: Arrival) -> _Aside | BackupdError:
        """Write an item aside; not durable yet."""
        try:
            directory = self._directory(one.area, one.folder)
            is_mail = one.area is Area.MAIL
            aside = f"{_place_aside(one.area, directory)}/{ASIDE_PREFIX}{delivery.unique_name()}"
            modified = mtime_of(one.metadata.get("received" if is_mail else "modified"))
            with one.content.open() as content, told_apart(self._account):
                like = self._like = self._like or self._account.stat()
                facts = write(aside, content, modified, like, durably=False)
        except BackupdError as error:
            return error
        return _Aside(one, directory, aside, facts)

    def _directory(self, area: Area, folder: str) -> Path:
        found = self._folders.get((area, folder))
        if found is None:
            try:
                if area is Area.MAIL:
                    found = delivery.make_mail_folder(self._account, folder)
                else:
                    found = delivery.make_tree_folder(self._account, area, folder)
                with told_apart(self._account):
                    _remove_leftovers(_place_aside(area, found))
            except BackupdError as error:
                found = error
            self._folders[area, folder] = found
        if isinstance(found, BackupdError):
            raise found
        return found

    def _named(self, one: _Aside) -> Ended:
        """Give an item its name."""
        arrival, directory = one.arrival, one.directory
        try:
            if arrival.area is not Area.MAIL:
                name = delivery.link_aside(
                    Path(one.path), directory, arrival.area, arrival.name, self._account
                )
                return Delivered(directory, name, one.facts)
            unique = one.path.rpartition(f"/{ASIDE_PREFIX}")[2]
            keywords = self._keyword_letters(directory, arrival.metadata.get("tags") or ())
            base = delivery.message_name(unique, one.facts.st_size, arrival.metadata, keywords)
            name = f"cur/{base}"
            with told_apart(self._account):
                os.rename(one.path, f"{directory}/{name}")
            return Delivered(directory, name, one.facts)
        except BackupdError as error:
            _remove([one.path])
            return error

    def _keyword_letters(self, directory: Path, tags: Sequence[str]) -> set[str]:
        if not tags:
            return set()
        known = self._letters.get(directory)
        if known is None or not (isinstance(known, BackupdError) or all(tag in known for tag in tags)):
            known = self._letters[directory] = _letters_given(directory, tags)
        if isinstance(known, BackupdError):
            # A folder that stays locked is waited for once, not once for each message.
            raise known
        return {known[tag] for tag in tags if tag in known}

    def _synced(self, ended: Sequence[Ended]) -> list[Ended]:
        """Make the names durable; what of them can't be is taken back."""
        failed: dict[Path, BackupdError] = {}
        places = {_place(one): None for one in ended if isinstance(one, Delivered)}
        for place in places:
            try:
                with told_apart(self._account):
                    durable.step("deliveries.named")
                    durable.sync_directory(place)
            except BackupdError as error:
                failed[place] = error
        if not failed:
            return list(ended)
        told: list[Ended] = []
        for one in ended:
            reason = failed.get(_place(one)) if isinstance(one, Delivered) else None
            if reason is not None and isinstance(one, Delivered):
                _take_back(self._account, self._unremoved, [f"{one.directory}/{one.name}"])
            told.append(one if reason is None else reason)
        return told


def _letters_given(directory: Path, tags: Sequence[str]) -> dict[str, str] | BackupdError:
    """Return the letter of each keyword of a folder, with these among them where there is room."""
    try:
        keyword_letters(directory, tags)
    except BackupdError as error:
        return error
    return {name: letter for letter, name in read_keywords(str(directory)).items()}


def _place_aside(area: Area, directory: Path) -> str:
    """Return where items of a folder are written until they get their names."""
    return str(directory / "tmp" if area is Area.MAIL else directory)


def _remove_leftovers(place: str) -> None:
    """Remove what processes on this host that live no more had written aside."""
    for name in os.listdir(place):
        if not name.startswith(ASIDE_PREFIX):
            continue
        writer = delivery.writer_of(name)
        if writer is not None and not is_alive(writer):
            _remove([f"{place}/{name}"])


def _place(one: Delivered) -> Path:
    """Return the directory that holds an item's name."""
    return one.directory / "cur" if one.name.startswith("cur/") else one.directory


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
