"""Writes domains, COS and mailing lists as the TOML files of the layout (docs/directory-layout.md)."""

from __future__ import annotations

from pathlib import Path

from backupd import durable
from backupd.appservers.base import DirectoryEntry
from backupd.appservers.delivery import toml_of
from backupd.appservers.naming import checked_name
from backupd.appservers.registry import COS_DIRECTORY, LISTS_DIRECTORY
from backupd.errors import AppServerRefused, AppServerUnavailable
from backupd.items import Kind

_MODE = 0o700


def store_entry(root: Path, entry: DirectoryEntry) -> None:
    """Write an entry's file, in place of an older one; durable on return. No link is followed.

    Raises `AppServerRefused` for a name that can't be a file's, `AppServerUnavailable` where the disk fails.
    """
    name = checked_name(str(entry.metadata.get("name") or entry.id))
    if name.startswith(".") or (entry.kind is Kind.DOMAIN and name in (COS_DIRECTORY, LISTS_DIRECTORY)):
        raise AppServerRefused(f"{entry.kind.value} can't be named {name!r} in files", name=name)
    directory, file = {
        Kind.DOMAIN: (root / name, "domain.toml"),
        Kind.COS: (root / COS_DIRECTORY, f"{name}.toml"),
        Kind.MAILING_LIST: (root / LISTS_DIRECTORY, f"{name}.toml"),
    }[entry.kind]
    attributes = {"id": entry.id, **{key: value for key, value in entry.metadata.items() if key != "name"}}
    try:
        directory.mkdir(mode=_MODE, exist_ok=True)
        if directory.is_symlink():
            raise AppServerRefused(f"{directory} is a link", path=str(directory))
        durable.replace_file(directory / file, toml_of(attributes).encode("utf-8"))
        durable.sync_directory(root)
    except OSError as error:
        raise AppServerUnavailable(f"can't write {directory / file}: {error.strerror}") from error
