# PTH: a thousand accounts are looked at per scan: text and os calls serve, Path objects cost too much.
# ruff: noqa: PTH112, PTH113, PTH114, PTH116, PTH123
"""Accounts, domains, COS and mailing lists of a mail host: directories and their TOML files.

Every directory `<root>/<domain>/<user>` is an account, whatever it holds, so that an account never
disappears because its mail could not be seen. Its id is `id` of `account.toml`, else a UUID derived from
the address. A TOML file that can't be read (half written, say) leaves the entry as it was last seen; one
that never could be read gives an entry with its name only. Links are not followed. A root or a domain that
is missing or unreadable raises `AppServerUnavailable`.
"""

from __future__ import annotations

import math
import os
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import msgspec
import structlog

from backupd.appservers.base import Account, DirectoryEntry
from backupd.appservers.file_trees import COS_DIRECTORY, LISTS_DIRECTORY
from backupd.appservers.naming import shown
from backupd.errors import AppServerUnavailable
from backupd.items import Kind

NAMESPACE = uuid.UUID("6a3f5d0e-5f0c-5c1b-9a55-0b8f6f2f6f10")
"""Under this UUID all derived ids lie; it must never change."""
TOML_BYTES_MAX = 1 << 20
ID_CHARACTERS_MAX = 200
_INTEGER_BITS_MAX = 63
log = structlog.get_logger(__name__)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an account lies: `path` is `<domain>/<user>` below the root, as the file system names it."""

    account: Account
    path: str


def derived_id(*parts: str) -> str:
    """Return the UUID text that follows from its parts."""
    return str(uuid.uuid5(NAMESPACE, "\0".join(parts)))


class Registry:
    """Reads who is on the host, and remembers what each TOML file held when it could last be read."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._parsed: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}

    def places(self) -> list[Place]:
        """Return all accounts with their places; raises `AppServerUnavailable` rather than a part of them."""
        found: list[Place] = []
        taken: set[str] = set()
        for domain in self._domains():
            for user in _directories(f"{self._root}/{domain}", self._root):
                place = self._place(domain, user)
                if place.account.id in taken:
                    log.warning("account_id_taken", account=place.account.name, id=place.account.id)
                    place = msgspec.structs.replace(
                        place,
                        account=msgspec.structs.replace(
                            place.account, id=derived_id("account", place.account.name)
                        ),
                    )
                taken.add(place.account.id)
                found.append(place)
        return found

    def place_at(self, path: str) -> Place | None:
        """Return the account of one directory `<domain>/<user>`, None if it is not there."""
        domain, _, user = path.partition("/")
        if domain in (COS_DIRECTORY, LISTS_DIRECTORY) or user[:1] in ("", ".") or domain[:1] in ("", "."):
            return None
        directory = f"{self._root}/{path}"
        if os.path.islink(directory) or not os.path.isdir(directory):
            return None
        return self._place(domain, user)

    def _place(self, domain: str, user: str) -> Place:
        name = f"{shown(user)}@{shown(domain)}"
        attributes = self._attributes(f"{self._root}/{domain}/{user}/account.toml")
        return Place(
            account=Account(
                id=_id_in(attributes) or derived_id("account", name),
                name=name,
                metadata={**_without_id(attributes), "name": name, "domain": shown(domain)},
            ),
            path=f"{domain}/{user}",
        )

    def entries(self) -> list[DirectoryEntry]:
        """Return domains, COS and mailing lists."""
        found = [
            _entry(Kind.DOMAIN, shown(domain), self._attributes(f"{self._root}/{domain}/domain.toml"))
            for domain in self._domains()
        ]
        for kind, directory in ((Kind.COS, COS_DIRECTORY), (Kind.MAILING_LIST, LISTS_DIRECTORY)):
            found.extend(
                _entry(kind, shown(name.removesuffix(".toml")), self._attributes(path))
                for name, path in self._toml_files(directory)
            )
        return found

    def toml_files(self) -> Iterator[tuple[str, Path]]:
        """Yield (relative name, file) of every TOML file: the host's configuration."""
        for directory in (COS_DIRECTORY, LISTS_DIRECTORY):
            for name, path in self._toml_files(directory):
                yield shown(f"{directory}/{name}"), Path(path)
        for domain in self._domains():
            candidates = [f"{domain}/domain.toml"]
            candidates += [
                f"{domain}/{user}/account.toml" for user in _directories(f"{self._root}/{domain}", self._root)
            ]
            for relative in candidates:
                path = f"{self._root}/{relative}"
                if os.path.isfile(path) and not os.path.islink(path):
                    yield shown(relative), Path(path)

    def _domains(self) -> list[str]:
        return [
            name
            for name in _directories(self._root, self._root)
            if name not in (COS_DIRECTORY, LISTS_DIRECTORY)
        ]

    def _toml_files(self, directory: str) -> list[tuple[str, str]]:
        path = f"{self._root}/{directory}"
        if os.path.islink(path) or not os.path.isdir(path):
            return []
        try:
            with os.scandir(path) as entries:
                return sorted(
                    (entry.name, entry.path)
                    for entry in entries
                    if entry.name.endswith(".toml")
                    and entry.name[0] != "."
                    and entry.is_file(follow_symlinks=False)
                )
        except OSError as error:
            raise _unavailable(path, error) from error

    def _attributes(self, path: str) -> dict[str, Any]:
        """Return what a TOML file holds; parsed once per version, the last good one where it is broken."""
        known = self._parsed.get(path)
        try:
            facts = os.stat(path, follow_symlinks=False)
            version = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
            if known is not None and known[0] == version:
                return known[1]
            attributes: dict[str, Any] = _plain(tomllib.loads(_text_of(path)))
        except FileNotFoundError:
            self._parsed.pop(path, None)
            return {}
        except (OSError, ValueError) as error:
            log.warning("attributes_unreadable", path=path, reason=str(error))
            return known[1] if known is not None else {}
        self._parsed[path] = (version, attributes)
        return attributes


def _text_of(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        return file.read(TOML_BYTES_MAX).decode("utf-8")


def _directories(path: str, root: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)
            )
    except OSError as error:
        if path != root and isinstance(error, FileNotFoundError):
            return []
        raise _unavailable(path, error) from error


def _unavailable(path: str, error: OSError) -> AppServerUnavailable:
    return AppServerUnavailable(
        f"{shown(path)} can't be listed: {error.strerror}",
        hint="is the mail storage mounted, and may the service's user read it?",
        path=shown(path),
    )


def _entry(kind: Kind, name: str, attributes: Mapping[str, Any]) -> DirectoryEntry:
    metadata = {**_without_id(attributes), "name": name}
    return DirectoryEntry(kind=kind, id=_id_in(attributes) or derived_id(kind.value, name), metadata=metadata)


def _id_in(attributes: Mapping[str, Any]) -> str:
    found = attributes.get("id")
    usable = isinstance(found, str) and 0 < len(found) <= ID_CHARACTERS_MAX and "\0" not in found
    return str(found) if usable else ""


def _without_id(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key != "id"}


def _plain(value: Any) -> Any:
    """Return a TOML value as JSON can hold it and give it back unchanged."""
    match value:
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case datetime() | date() | time():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return str(value)
        case int() if value.bit_length() > _INTEGER_BITS_MAX:
            return str(value)
        case _:
            return value
