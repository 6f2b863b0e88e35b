"""Histories: one file per item, one state per line, growing at the end only (docs/formats.md).

One writer at a time appends; readers may come at any time and see a whole history or one that lacks the
states being written. `append` does not sync: `Store.checkpoint` makes everything since the last one durable
at once, and what a crash took is recorded again from the journal. Damage raises `CorruptHistory` and stops
nothing else; `salvage` gives what can still be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from backupd import durable
from backupd.errors import CorruptHistory
from backupd.items import ItemKey, Kind, file_name_of, identifier_of
from backupd.states import State
from backupd.store import history_format, layout
from backupd.store.history_format import CLOSING, Parsed
from backupd.volumes.disk import Directories, full_disk_told, sync_directory

TAIL_BYTES = 64 << 10
"""How much of a big history `last` reads at first."""
_TAIL_GROWTH = 8
SYNCED_SINGLY_MAX = 12
"""Up to this many directories are synced one by one; for more, one sync of the file system is quicker."""
RECENT_STATES_MAX = 32
"""Of how many of the newest states `last` returns the events."""
_LAST_BYTES = b"}" + CLOSING
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_NO_EVENTS: frozenset[str] = frozenset()


class WalkedHistory(msgspec.Struct, frozen=True):
    """A history met while walking the tree. `damage` says what can't be read of it, `states` is what can."""

    key: ItemKey
    states: list[State]
    damage: str = ""


class Histories:
    """The histories below a root."""

    def __init__(self, root: Path, directories: Directories | None = None) -> None:
        self._directories = directories or Directories(root)

    def read(self, key: ItemKey) -> list[State]:
        """Return all states, oldest first; none without a history. Raises `CorruptHistory`, `OSError`."""
        path, content = self._content(key)
        return history_format.parse(content, path).states if content else []

    def salvage(self, key: ItemKey) -> list[State]:
        """Return every state of a damaged history that can still be read, oldest first."""
        return history_format.salvage(self._content(key)[1])

    def last(self, key: ItemKey) -> tuple[State | None, frozenset[str]]:
        """Return the last state (None if there is none) and the event ids of the recent ones.

        Reads only the end of a big file. Raises `CorruptHistory` where that end is damaged, `OSError`.
        """
        path = self._path(key)
        descriptor = self._opened(key, path, os.O_RDONLY)
        if descriptor is None:
            return None, _NO_EVENTS
        try:
            states = _tail(descriptor, path).states
        finally:
            os.close(descriptor)
        if not states:
            return None, _NO_EVENTS
        events = [event for state in states[-RECENT_STATES_MAX:] for event in state.events]
        return states[-1], frozenset(events)

    def append(self, key: ItemKey, states: Sequence[State]) -> None:
        """Add states, newer than the last, to an item's history; not synced.

        Raises `SpaceExhausted` or `OSError`, then the history is as it was; `CorruptHistory` where its end
        is damaged, so that nothing can be added.
        """
        if not states:
            return
        directory, name = layout.history_place(key)
        self._directories.make(directory)
        path = f"{self._directories.root}/{directory}/{name}"
        durable.step("history.append")
        with full_disk_told(path):
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
            except FileExistsError:
                _grow(path, states)
            else:
                _fill(descriptor, path, history_format.encode_history(states))
        durable.step("history.appended")

    def keys(self) -> Iterator[ItemKey]:
        """Yield the key of every history that can be read at all."""
        for found in self.walk():
            if found.states:
                yield found.key

    def walk(self) -> Iterator[WalkedHistory]:
        """Yield every history, one in memory at a time; a damaged one with what is readable of it."""
        for kind, directory in layout.SERVER_DIRECTORIES.items():
            for path in self._files(f"{layout.SERVERS}/{directory}"):
                yield self._walked(path, "", kind)
        for account_directory in self._names(layout.ACCOUNTS):
            yield from self._walk_directory(account_directory)

    def walk_account(self, account: str) -> Iterator[WalkedHistory]:
        """Yield every history of one account, its own first, as `walk` does."""
        yield from self._walk_directory(file_name_of(account))

    def remove(self, key: ItemKey) -> int:
        """Remove an item's history; return the bytes it took. `sync_directories` makes that durable."""
        path = self._path(key)
        try:
            size = os.lstat(path).st_size
            os.unlink(path)  # noqa: PTH108 - strings, as above
        except FileNotFoundError:
            return 0
        return size

    def sync_directories(self, keys: Iterable[ItemKey]) -> None:
        """Make durable that these items' histories are gone."""
        directories = {layout.history_place(key)[0] for key in keys}
        if len(directories) > SYNCED_SINGLY_MAX:
            durable.sync_file_system(Path(self._directories.root))
            return
        for directory in directories:
            if self._directories.exists(directory):
                sync_directory(self._directories.path(directory))

    def contents(self) -> Iterator[bytes]:
        """Yield the bytes of every history file as they are, whether they can be understood or not.

        Raises `OSError` where one can't be read, but for those that vanish meanwhile.
        """
        for path in self._paths():
            try:
                yield _whole(os.open(path, os.O_RDONLY | _FLAGS))
            except FileNotFoundError:
                continue

    def _paths(self) -> Iterator[str]:
        for directory in layout.SERVER_DIRECTORIES.values():
            yield from self._files(f"{layout.SERVERS}/{directory}")
        for account_directory in self._names(layout.ACCOUNTS):
            relative = f"{layout.ACCOUNTS}/{account_directory}"
            if not self._directories.exists(relative):
                continue
            own = f"{self._directories.path(relative)}/{layout.ACCOUNT_HISTORY}"
            if os.path.lexists(own):
                yield own
            for items in (layout.ITEMS, layout.DOCUMENTS):
                for bucket in self._names(f"{relative}/{items}"):
                    yield from self._files(f"{relative}/{items}/{bucket}")

    def _walk_directory(self, account_directory: str) -> Iterator[WalkedHistory]:
        relative = f"{layout.ACCOUNTS}/{account_directory}"
        if not self._directories.exists(relative):
            return
        account = identifier_of(account_directory)
        own = f"{self._directories.path(relative)}/{layout.ACCOUNT_HISTORY}"
        if os.path.lexists(own):
            found = self._walked(own, account, Kind.ACCOUNT)
            account = found.key.account
            yield found
        for items in (layout.ITEMS, layout.DOCUMENTS):
            for bucket in self._names(f"{relative}/{items}"):
                for path in self._files(f"{relative}/{items}/{bucket}"):
                    yield self._walked(path, account, None)

    def _walked(self, path: str, account: str, kind: Kind | None) -> WalkedHistory:
        damage, states = "", list[State]()
        try:
            content = _whole(os.open(path, os.O_RDONLY | _FLAGS))
            try:
                states = history_format.parse(content, path).states
            except CorruptHistory as error:
                damage, states = error.message, history_format.salvage(content)
            if not states:
                damage = damage or f"{path}: it holds no state"
        except OSError as error:
            damage = f"{path}: {error.strerror}"
        item = identifier_of(path.rpartition("/")[2]) if kind is not Kind.ACCOUNT else account
        if states:
            kind, item = states[-1].kind, states[-1].item or item
        if kind is Kind.ACCOUNT:
            account = item
        return WalkedHistory(ItemKey(account, kind or Kind.MESSAGE, item), states, damage)

    def _names(self, relative: str) -> list[str]:
        if not self._directories.exists(relative):
            return []
        return sorted(os.listdir(self._directories.path(relative)))  # noqa: PTH208 - strings, as in disk

    def _files(self, relative: str) -> Iterator[str]:
        for name in self._names(relative):
            yield f"{self._directories.path(relative)}/{name}"

    def _path(self, key: ItemKey) -> str:
        directory, name = layout.history_place(key)
        return f"{self._directories.root}/{directory}/{name}"

    def _opened(self, key: ItemKey, path: str, flags: int) -> int | None:
        if not self._directories.exists(layout.history_place(key)[0]):
            return None
        try:
            return os.open(path, flags | _FLAGS)
        except FileNotFoundError:
            return None

    def _content(self, key: ItemKey) -> tuple[str, bytes]:
        path = self._path(key)
        descriptor = self._opened(key, path, os.O_RDONLY)
        return path, b"" if descriptor is None else _whole(descriptor)


def _whole(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _tail(descriptor: int, path: str) -> Parsed:
    """Read the end of a history, at least its last whole state."""
    size = os.fstat(descriptor).st_size
    window = TAIL_BYTES
    while window < size:
        content = os.pread(descriptor, window, size - window)
        begin = content.find(b"\n") + 1
        if begin:
            parsed = history_format.parse_lines(content[begin:], size - window + begin, path)
            if parsed.states:
                return parsed
        window *= _TAIL_GROWTH
    return history_format.parse(os.pread(descriptor, size, 0), path)


def _fill(descriptor: int, path: str, content: bytes) -> None:
    """Write a new file, or leave none."""
    try:
        durable.write_all(descriptor, content)
        durable.step("history.created")
    except OSError:
        os.unlink(path)  # noqa: PTH108 - strings: pathlib costs more than the system call
        raise
    finally:
        os.close(descriptor)


def _grow(path: str, states: Sequence[State]) -> None:
    """Overwrite the closing bracket, or a torn tail, with more states; on failure put the bracket back."""
    descriptor = os.open(path, os.O_RDWR | _FLAGS)
    try:
        size = os.fstat(descriptor).st_size
        if os.pread(descriptor, len(_LAST_BYTES), max(0, size - len(_LAST_BYTES))) == _LAST_BYTES:
            end = size - len(CLOSING)
        else:
            durable.step("history.repair")
            parsed = _tail(descriptor, path)
            end = parsed.end if parsed.states else 0
        lines = history_format.encode_lines(states) + CLOSING
        addition = b",\n" + lines if end else history_format.OPENING + lines
        try:
            _write_at(descriptor, addition, end)
            if end + len(addition) < size:
                os.ftruncate(descriptor, end + len(addition))
            durable.step("history.grown")
        except OSError:
            _write_at(descriptor, CLOSING if end else b"", end)
            os.ftruncate(descriptor, end + len(CLOSING) if end else 0)
            raise
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
