"""Writes the TOML files of domains, classes of service, mailing lists and accounts of a mail host.

An entry is made whole, or given attributes that it lacks: new lines at the top of the file, everything else
as it was, byte by byte. What is there is never changed. A file that can't be read as TOML is left alone.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backupd import durable
from backupd.appservers.delivery import make_directory, toml_of, visible_name
from backupd.appservers.file_trees import COS_DIRECTORY, LISTS_DIRECTORY
from backupd.appservers.registry import TOML_BYTES_MAX
from backupd.appservers.writing import owned_like, told_apart
from backupd.errors import AppServerRefused
from backupd.items import Kind

_DERIVED = ("name", "domain")
"""What an entry's place tells."""


def put_entry(root: Path, kind: Kind, identifier: str, metadata: Mapping[str, Any]) -> None:
    """Make a domain, COS or list of the name in the metadata, or add what it lacks.

    Raises `AppServerRefused`, `AppServerUnavailable`.
    """
    name = visible_name(str(metadata.get("name", "")))
    match kind:
        case Kind.DOMAIN if name not in (COS_DIRECTORY, LISTS_DIRECTORY):
            path = root / name / "domain.toml"
        case Kind.COS:
            path = root / COS_DIRECTORY / f"{name}.toml"
        case Kind.MAILING_LIST:
            path = root / LISTS_DIRECTORY / f"{name}.toml"
        case _:
            raise AppServerRefused(f"{name!r} can't be a {kind.value}", name=name)
    with told_apart(root):
        make_directory(path.parent, root)
        is_new = not path.exists() and not path.is_symlink()
    given = {key: value for key, value in metadata.items() if key != "id"}
    complete(path, {**({"id": identifier} if identifier and is_new else {}), **given})


def complete(path: Path, metadata: Mapping[str, Any]) -> None:
    """Add the attributes that a TOML file lacks; make it where there is none.

    Raises `AppServerRefused`, `AppServerUnavailable`.
    """
    with told_apart(path.parent):
        if path.is_symlink():
            raise AppServerRefused(f"{path.name} is a link; it is left alone", path=str(path))
        try:
            before = path.read_bytes()
            known = tomllib.loads(before.decode("utf-8"))
        except FileNotFoundError:
            before, known = b"", {}
        except ValueError as error:
            raise AppServerRefused(
                f"{path.name} is no TOML: {error}", hint="mend it, then give the command again"
            ) from error
        missing = {
            name: value
            for name, value in metadata.items()
            if name not in known and name not in _DERIVED and value is not None
        }
        if path.exists() and not missing:
            return
        content = toml_of(missing).encode("utf-8") + before
        if len(content) > TOML_BYTES_MAX:
            raise AppServerRefused(f"{path.name} would be larger than {TOML_BYTES_MAX >> 20} MiB")
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        durable.replace_file(path, content, mode=mode)
        owned_like(path, path.parent)
