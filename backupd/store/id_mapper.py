"""`id_mapper.log`: as which new items those of another server's backup came in, one line each, per account.

A line is four fields between tabs: the item's id there, its id here, its kind, and `<server id>/<account id>`
of where it came from. Bytes that could be mistaken for a field's end are written `%XX`. Lines are appended
and durable on return; a last line that a crash cut short is none, and is cut off. Any thread may call,
one at a time per account.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from backupd import durable
from backupd.items import Kind
from backupd.store.layout import Layout, account_directory
from backupd.volumes.disk import Directories, full_disk_told

ID_MAPPER = "id_mapper.log"
_PLAIN = "-_.~@+=,:/!$&'()*;"
_KINDS = frozenset(kind.value for kind in Kind)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class MappedItem(msgspec.Struct, frozen=True, kw_only=True):
    """One line: `origin` is `<server id>/<account id>`."""

    source: str
    target: str
    kind: Kind
    origin: str

    def line(self) -> str:
        """Return it as it stands in the file."""
        fields = (self.source, self.target, self.kind.value, self.origin)
        return "\t".join(quote(field, safe=_PLAIN, errors="surrogateescape") for field in fields) + "\n"


class IdMapper:
    """Reads and appends the files below one Backup Path."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, account: str) -> Path:
        """Return where an account's file is."""
        return self._layout.account(account) / ID_MAPPER

    def _content(self, account: str) -> bytes:
        try:
            return self.path(account).read_bytes()
        except FileNotFoundError:
            return b""

    def _whole_bytes(self, account: str) -> int:
        """Return where the last whole line ends."""
        return self._content(account).rfind(b"\n") + 1

    def read(self, account: str) -> list[MappedItem]:
        """Return the lines of an account that are whole. Raises `OSError`."""
        found = []
        content = self._content(account)[: self._whole_bytes(account)]
        for line in content.decode("utf-8", "replace").splitlines():
            fields = [unquote(field) for field in line.split("\t")]
            if len(fields) == 4 and fields[2] in _KINDS:  # noqa: PLR2004 - as the module's docstring says
                source, target, kind, origin = fields
                found.append(MappedItem(source=source, target=target, kind=Kind(kind), origin=origin))
        return found

    def append(self, account: str, items: Iterable[MappedItem]) -> None:
        """Append what is not there yet, durably. Raises `SpaceExhausted`, `OSError`."""
        known = {one.line() for one in self.read(account)}
        lines = dict.fromkeys(line for line in (one.line() for one in items) if line not in known)
        if not lines:
            return
        directories = Directories(self._layout.root)
        changed = directories.make(account_directory(account))
        path = self.path(account)
        with full_disk_told(path):
            descriptor = os.open(path, _FLAGS, 0o600)
            try:
                os.ftruncate(descriptor, self._whole_bytes(account))
                durable.write_all(descriptor, "".join(lines).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            for place in (path.parent, *map(Path, changed)):
                durable.sync_directory(place)
