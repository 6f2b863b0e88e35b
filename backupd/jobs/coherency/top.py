"""What stands at the top of a Backup Path: map files, statistics, ledger, journal, archives, leftovers.

Looked at in every run, because it is little. A run of one account leaves it out.
"""

from __future__ import annotations

import gzip
import os
import re
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from backupd.decoding import decoded
from backupd.items import digest_text, identifier_of
from backupd.jobs.coherency.account_files import is_old, judge_beside
from backupd.jobs.coherency.findings import Finding
from backupd.jobs.coherency.shelves import Entry, joined, open_to_others, stranger, there
from backupd.store import archives, journal_reader, layout, ledger_schema, segments, unwritten
from backupd.store.foreign import MAP, MAP_BYTES_MAX
from backupd.store.foreign_files import Tree, why_unreadable
from backupd.store.ownership import FORMAT_VERSION, PROBE, Identity
from backupd.store.segments import HEADER_BYTES, Damage
from backupd.volumes.local import STAGED, is_alive

INDEX, LEDGER, STATISTICS, CATALOG = "index.sqlite", "state.sqlite", "backupstat", layout.CATALOG
INDEX_DAMAGED = f".{INDEX}.damaged"
"""The mark by which the daemon remembers to build the index anew."""
FOLDERS = frozenset({*layout.DIRECTORIES, layout.DAMAGED, STAGED, layout.PURGED, layout.PURGING, layout.LOST})
KNOWN = frozenset(
    {".lock", "lost+found", INDEX_DAMAGED}
    | {f"{name}{end}" for name in (INDEX, LEDGER, CATALOG) for end in ("", "-wal", "-shm", "-journal")}
)
SETTLE_SECONDS = 0.3
MENTIONED_AT_ONCE = 10_000
Mention = Callable[[Iterable[str]], None]
_DIGEST = re.compile(rb'"digest":"([A-Za-z0-9+,]{43}=)"')
_READ_BYTES = 1 << 20


def look_at_top(tree: Tree) -> Iterator[Finding]:
    """Yield what is wrong at the top, but for databases and journal."""
    found, problems = there(tree, "", "history.unreadable")
    yield from problems
    yield from open_to_others("", [one for one in found if one.name != "lost+found"])
    yield from _maps(tree, found)
    for one in found:
        if one.name in FOLDERS:
            if not one.is_directory:
                yield stranger("", one)
        elif not one.is_file and one.name != "lost+found":
            yield stranger("", one)
        elif one.name.startswith(PROBE) or one.name.endswith(".new"):
            if is_old(one):
                yield Finding(code="file.leftover", path=one.name)
        elif one.name not in KNOWN and not one.name.startswith((MAP, f"{CATALOG}.damaged-")):
            yield from judge_beside(tree, one.name, one)
    yield from _staged(tree)
    yield from _servers(tree)


def _maps(tree: Tree, found: list[Entry]) -> Iterator[Finding]:
    maps = [one.name for one in found if one.name.startswith(MAP) and one.is_file]
    if not maps:
        yield Finding(code="map.missing", path=f"{MAP}<server id>")
    told: list[tuple[str, Identity]] = []
    for name in maps:
        try:
            with tree.open(name) as file:
                identity = decoded(file.read(MAP_BYTES_MAX), Identity)
        except OSError as error:
            yield Finding(code="map.unreadable", path=name, detail=why_unreadable(error))
        except (ValueError, RecursionError) as error:
            yield Finding(code="map.unreadable", path=name, detail=str(error))
        else:
            if identity.format > FORMAT_VERSION:
                detail = f"its format is {identity.format}, this version reads {FORMAT_VERSION}"
                yield Finding(code="map.unreadable", path=name, detail=detail)
            else:
                told.append((name, identity))
    yield from _strangers_among(told)


def _strangers_among(told: list[tuple[str, Identity]]) -> Iterator[Finding]:
    """Yield the map files that are not those of the one server whose backup this is."""
    true = [name for name, one in told if one.server == identifier_of(name.removeprefix(MAP))]
    for name, identity in told:
        if name not in true:
            detail = f"it says that it is the backup of server {identity.server[:80]!r}"
            yield Finding(code="map.foreign", path=name, detail=detail)
    if len(true) > 1:
        oldest = min(true, key=lambda name: next(one.since for told_, one in told if told_ == name))
        for name in sorted(set(true) - {oldest}):
            yield Finding(code="map.foreign", path=name, detail=f"besides {oldest}, which is older")


def _staged(tree: Tree) -> Iterator[Finding]:
    found, problems = there(tree, STAGED, "file.leftover")
    yield from problems
    for one in found:
        if not one.is_file:
            yield stranger(STAGED, one)
        elif is_old(one) and not is_alive(one.name.rpartition(".")[0]):
            yield Finding(code="file.leftover", path=joined(STAGED, one.name))


def _servers(tree: Tree) -> Iterator[Finding]:
    found, _ = there(tree, layout.SERVERS, "archive.corrupt")
    yield from open_to_others(layout.SERVERS, found)
    for one in found:
        path = joined(layout.SERVERS, one.name)
        if one.is_directory and one.name in layout.SERVER_DIRECTORIES.values():
            continue
        if not one.is_file:
            yield stranger(layout.SERVERS, one)
        elif one.name.startswith("."):
            if is_old(one):
                yield Finding(code="file.leftover", path=path)
        elif not archives.is_archive_name(one.name):
            yield Finding(code="file.unknown", path=path)
        else:
            reason = _why_no_archive(tree, path)
            if reason:
                yield Finding(code="archive.corrupt", path=path, detail=reason)


def _why_no_archive(tree: Tree, path: str) -> str:
    """Read an archive to its end, in bounded memory; nothing is unpacked."""
    try:
        with tree.open(path) as file, gzip.open(file) as unpacked:
            with tarfile.open(fileobj=unpacked, mode="r|") as archive:
                for _ in archive:
                    pass
            # The checksum stands at the very end, behind what an archive needs.
            while unpacked.read(_READ_BYTES):
                pass
    except FileNotFoundError:
        return ""  # it was removed since it was listed
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        return str(error) or type(error).__name__
    except Exception as error:  # noqa: BLE001 - zlib.error and what else a forged archive raises
        return f"{type(error).__name__}: {error}"
    return ""


# ------------------------------------------------------------------------------- ledger


def look_at_ledger(root: Path, scratch: Path, *, live: bool) -> tuple[list[Finding], set[str]]:
    """Return what is wrong with the ledger, and the contents that waiting changes name."""
    path = root / LEDGER
    try:
        connection = unwritten.opened(unwritten.located(path, scratch, live=live))
    except FileNotFoundError:
        return [Finding(code="ledger.missing", path=LEDGER)], set()
    except (unwritten.NotOpenable, OSError):
        return [], set()
    except sqlite3.Error as error:
        return [Finding(code="ledger.corrupt", path=LEDGER, detail=str(error))], set()
    try:
        reason = unwritten.why_damaged(connection)
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if not reason and application != ledger_schema.APPLICATION:
            reason = "it is a database of something else"
        if reason:
            return [Finding(code="ledger.corrupt", path=LEDGER, detail=reason)], set()
        return [], _mentioned(connection)
    except sqlite3.Error as error:
        return [Finding(code="ledger.corrupt", path=LEDGER, detail=str(error))], set()
    finally:
        connection.close()


def _mentioned(connection: sqlite3.Connection) -> set[str]:
    """Return the contents that the ledger names: of waiting changes, and those condemned by the purge."""
    digests: set[str] = set()
    for (change,) in connection.execute("SELECT change FROM waiting"):
        encoded = change.encode() if isinstance(change, str) else bytes(change)
        digests |= {one.decode() for one in _DIGEST.findall(encoded)}
    if connection.execute("PRAGMA user_version").fetchone()[0] >= ledger_schema.VERSION:
        digests |= {digest_text(one) for (one,) in connection.execute("SELECT digest FROM condemned")}
    return digests


# ------------------------------------------------------------------------------ journal


def look_at_journal(tree: Tree, mention: Mention, recorded: int = 0) -> list[Finding]:
    """Return what is wrong with the journal; `mention` hears of the contents that its entries name.

    `recorded` is the number up to which the recorder has come: damage before it takes nothing any more.
    """
    found, problems = there(tree, layout.JOURNAL, "journal.corrupt")
    problems += open_to_others(layout.JOURNAL, found)
    known: list[tuple[int, str]] = []
    for one in found:
        first = journal_reader.first_of(one.name)
        if first is None or not one.is_file:
            problems.append(stranger(layout.JOURNAL, one))
        else:
            known.append((first, joined(layout.JOURNAL, one.name)))
    for place, (first, path) in enumerate(known):
        following = known[place + 1][0] if place + 1 < len(known) else None
        for attempt in (1, 2):
            reported = _segment(tree, path, first, following, mention, recorded)
            if not reported or attempt > 1:
                break
            time.sleep(SETTLE_SECONDS)  # an append may have been under way
        problems += reported
    return problems


def _judge_damage(descriptor: int, size: int, damage: Damage, following: int | None, recorded: int) -> str:
    """Return the code of bytes that are no record."""
    behind = following if damage.found is None else damage.found.sequence
    if behind is not None and behind <= recorded + 1:
        return "journal.passed"
    is_tail = behind is None
    return (
        "journal.torn" if is_tail and segments.is_torn(descriptor, damage.offset, size) else "journal.corrupt"
    )


def _segment(
    tree: Tree, path: str, first: int, following: int | None, mention: Mention, recorded: int
) -> list[Finding]:
    digests: list[str] = []
    passed: list[Finding] = []
    try:
        with tree.open(path) as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            header = segments.decode_header(os.pread(descriptor, HEADER_BYTES, 0))
            if header is None or header.first != first:
                if following is None and size <= HEADER_BYTES:
                    return [Finding(code="journal.torn", path=path, detail="its beginning is cut short")]
                return [Finding(code="journal.corrupt", path=path, detail="the header does not check")]
            expected = first
            for found in segments.walk(descriptor, offset=HEADER_BYTES, end=size, expected=first):
                if following is not None and expected >= following:
                    break  # what stands here was written anew in the next segment
                if not isinstance(found, Damage):
                    digests += [one.decode() for one in _DIGEST.findall(found.payload)]
                    if len(digests) >= MENTIONED_AT_ONCE:
                        mention(digests)
                        digests.clear()
                    expected = found.sequence + 1
                    continue
                judged = _judge_damage(descriptor, size, found, following, recorded)
                finding = Finding(code=judged, path=path, detail=f"no valid record at offset {found.offset}")
                if judged != "journal.passed":
                    return [finding]
                passed = passed or [finding]
    except FileNotFoundError:
        return []  # recorded, and removed since it was listed
    except OSError as error:
        return [Finding(code="journal.corrupt", path=path, detail=why_unreadable(error))]
    finally:
        mention(digests)
    return passed
