"""Server archives: what `getServerConfig` finds in the archives below `servers/`.

An archive of the configuration is read into facts under `type/id/key`: attributes by level and name, the
daemon's file by section, and the AppServer's domains, accounts, COS and lists by name. An archive of
customizations has its files, under `files/<path>/size` and, where asked, `/content`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from backupd.clock import parse_moment
from backupd.config_sections import SECRET_KEYS
from backupd.control import ServerConfigReply
from backupd.decoding import decoded
from backupd.errors import BackupPathRefused
from backupd.jobs.archive.configuration import ATTRIBUTES_MEMBER, CONFIGURATION_MEMBER
from backupd.store import archives
from backupd.store.archives import Archive, ArchiveType, Member
from backupd.store.layout import Layout
from backupd.views import ArchiveView, ServerFact
from daemon.answering import Given

FACTS_MAX = 1_000
FACTS_VERBOSE_MAX = 200_000
VALUE_CHARACTERS_MAX = 200
CONTENT_BYTES_MAX = 256 << 10
TYPES = {"standard": ArchiveType.CONFIGURATION, "customizations": ArchiveType.CUSTOMIZATIONS}
REDACTED = "(secret)"
_FOLDERS = {"cos": "coses", "lists": "lists"}
_DOMAIN_PARTS, _ACCOUNT_PARTS = 2, 3
"""Parts of the names `<domain>/domain.toml` and `<domain>/<user>/account.toml`."""


def shows_contents(given: Given) -> bool:
    """Tell whether the texts of the server's own files are asked for, which may hold passwords."""
    wants = given["verbose"] or "/content" in (given["query"] or "")
    return bool(wants) and given["type"] == "customizations"


def layout_of(path: str | None, own: Layout) -> Layout:
    """Return the Backup Path that is meant. Raises `BackupPathRefused` where there is none."""
    if path is None:
        return own
    layout = Layout(Path(path).resolve())
    if not layout.servers.is_dir():
        raise BackupPathRefused(f"{path} is no Backup Path", hint="it has no folder servers")
    return layout


def reply(layout: Layout, given: Given) -> ServerConfigReply:
    """Return the facts of the archive that is meant, or the list of all archives. Blocks."""
    type_ = TYPES[given["type"]]
    if given["file"] is not None:
        archive = archives.archive_at(Path(given["file"]))
    else:
        found = archives.archives(layout, type_)
        if given["date"] == "all":
            return ServerConfigReply(type=given["type"], archives=tuple(_view(one) for one in found))
        when = None if given["date"] == "last" else parse_moment(given["date"])
        archive = archives.chosen(found, when)
    limit = FACTS_VERBOSE_MAX if given["verbose"] else FACTS_MAX
    query = (given["query"] or "").strip("/")
    values: list[ServerFact] = []
    for fact in facts_of(archive, contents=shows_contents(given) or given["verbose"]):
        if _fits(fact, query):
            values.append(fact if given["verbose"] else _shortened(fact))
        if len(values) > limit:
            break
    return ServerConfigReply(
        type=given["type"],
        archives=(_view(archive),),
        query=query,
        values=tuple(values[:limit]),
        more=len(values) > limit,
    )


def facts_of(archive: Archive, *, contents: bool) -> Iterator[ServerFact]:
    """Yield what an archive holds. Raises `CorruptArchive`."""
    is_configuration = archive.type is ArchiveType.CONFIGURATION

    def wanted(name: str) -> bool:
        return contents or (is_configuration and name.endswith((".toml", ".json")))

    for member in archives.members(archive, wanted=wanted, bytes_max=archives.FILE_BYTES_MAX):
        if is_configuration and member.content is not None and member.name.endswith((".toml", ".json")):
            yield from _configuration_facts(member)
        else:
            yield from _file_facts(member)


def _configuration_facts(member: Member) -> Iterator[ServerFact]:
    try:
        text = (member.content or b"").decode()
        if member.name == ATTRIBUTES_MEMBER:
            for row in decoded(text, list[dict[str, Any]]):
                level = row.get("level", "global")
                yield ServerFact(type="attributes", id=level, key=row["attribute"], value=row["value"])
            return
        table = msgspec.to_builtins(
            tomllib.loads(text) if member.name.endswith(".toml") else msgspec.json.decode(text)
        )
    except (tomllib.TOMLDecodeError, msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
        yield from _file_facts(member)
        return
    if member.name == CONFIGURATION_MEMBER:
        for section, values in table.items():
            for key, value in values.items() if isinstance(values, dict) else [("", values)]:
                told = REDACTED if key in SECRET_KEYS and value else value
                yield ServerFact(type="backupd", id=section, key=key, value=told)
        return
    kind, name = _named(member.name)
    for key, value in table.items() if isinstance(table, dict) else [("", table)]:
        yield ServerFact(type=kind, id=name, key=key, value=value)


def _named(path: str) -> tuple[str, str]:
    """Return type and id of a file of the AppServer's configuration."""
    parts = path.split("/")
    stem = parts[-1].rpartition(".")[0]
    if len(parts) == _DOMAIN_PARTS and parts[0] in _FOLDERS:
        return _FOLDERS[parts[0]], stem
    if len(parts) == _DOMAIN_PARTS and stem == "domain":
        return "domains", parts[0]
    if len(parts) == _ACCOUNT_PARTS and stem == "account":
        return "accounts", f"{parts[1]}@{parts[0]}"
    return "files", path


def _file_facts(member: Member) -> Iterator[ServerFact]:
    if member.link:
        yield ServerFact(type="files", id=member.name, key="link", value=member.link)
        return
    yield ServerFact(type="files", id=member.name, key="size", value=member.size)
    if (
        member.name != CONFIGURATION_MEMBER
        and member.content is not None
        and len(member.content) <= CONTENT_BYTES_MAX
    ):
        try:
            text = member.content.decode()
        except UnicodeDecodeError:
            return
        yield ServerFact(type="files", id=member.name, key="content", value=text)


def _fits(fact: ServerFact, query: str) -> bool:
    """Tell whether a fact stands at or below `type[/id[/key]]`; an empty query is everything."""
    whole = f"{fact.type}/{fact.id}/{fact.key}".casefold()
    wanted = query.casefold()
    return not wanted or whole == wanted or whole.startswith(wanted + "/")


def _shortened(fact: ServerFact) -> ServerFact:
    if isinstance(fact.value, str) and len(fact.value) > VALUE_CHARACTERS_MAX:
        return msgspec.structs.replace(fact, value=fact.value[:VALUE_CHARACTERS_MAX] + "…")
    return fact


def _view(archive: Archive) -> ArchiveView:
    return ArchiveView(path=str(archive.path), type=archive.type.value, date=archive.date, size=archive.size)
