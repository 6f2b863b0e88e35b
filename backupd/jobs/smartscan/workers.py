"""Reading many items: the part of a scan for worker processes, or for a thread where little is read.

A chunk goes in, findings and staged blobs come out; nothing is visible in the backup until the parent
commits the blobs and journals the findings. Findings come encoded, so that the parent only passes bytes on.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path

import msgspec

from backupd.appservers.base import ContentHolder, ItemReader, Reading
from backupd.errors import AppServerRefused, AppServerUnavailable, BackupdError, ItemVanished
from backupd.events import Change, encode_change
from backupd.items import Kind
from backupd.jobs.smartscan import plan
from backupd.states import ChangeType, Origin
from backupd.store.blobs import Blobs
from backupd.store.keeping import Keeping, Kept
from backupd.worker_processes import begin_worker


class ChunkItem(msgspec.Struct, frozen=True, array_like=True):
    """One item to read."""

    account: str
    kind: Kind
    item: str
    locator: str
    type: ChangeType
    basis: int
    recorded: bytes | None = None
    """Fingerprint of the recorded photograph (plan.fingerprint), None where there is none."""


class ItemProblem(msgspec.Struct, frozen=True, array_like=True):
    """An item that could not be read, and why; `vanished` ones were gone."""

    account: str
    item: str
    reason: str
    vanished: bool


class ChunkResult(msgspec.Struct):
    """What reading a chunk gave: encoded changes (`created` of them new), staged contents, problems.

    `unchanged` counts items that read as they are recorded.
    """

    payloads: list[bytes] = []
    staged: list[Kept] = []
    problems: list[ItemProblem] = []
    created: int = 0
    unchanged: int = 0
    content_bytes: int = 0


READING_ERRORS = (ItemVanished, AppServerUnavailable, AppServerRefused)
"""What reading one item may raise without stopping the others."""
_reader: ItemReader | None = None
_keeping: Keeping | None = None


def read_chunk(
    items: Sequence[ChunkItem], moment: datetime, reader: ItemReader, keeping: Keeping
) -> ChunkResult:
    """Read items, stage their contents and encode what was found; errors of single items are collected.

    Blocks. Raises `OSError` and `SpaceExhausted` where the Backup Path can't take a content.
    """
    result = ChunkResult()
    for item in items:
        try:
            reading = reader.read(item.kind, item.item, item.locator)
            take_reading(result, item, moment, reading, keeping)
        except READING_ERRORS as error:
            result.problems.append(problem_of(item, error))
        except BaseException:
            keeping.discard(result.staged)
            raise
    return result


def problem_of(item: ChunkItem, error: BackupdError) -> ItemProblem:
    """Return why an item was not read; one of an account that is gone has vanished too."""
    vanished = not isinstance(error, AppServerUnavailable)
    return ItemProblem(item.account, item.item, error.message, vanished)


def take_reading(
    result: ChunkResult, item: ChunkItem, moment: datetime, reading: Reading, keeping: Keeping
) -> None:
    """Stage what was read and add the finding. Raises `ItemVanished`, `AppServerUnavailable`."""
    kept = None
    if reading.content is not None:
        kept = keeping.stage(reading.content)
        result.staged.append(kept)
        result.content_bytes += kept.size
    digest = kept.digest if kept is not None else None
    if item.recorded is not None and item.recorded == plan.fingerprint(reading.metadata, digest):
        result.unchanged += 1
        return
    result.created += item.type is ChangeType.CREATED
    result.payloads.append(
        encode_change(
            Change(
                account=item.account,
                kind=item.kind,
                item=item.item,
                type=item.type,
                time=moment,
                origin=Origin.SMARTSCAN,
                metadata=reading.metadata,
                digest=digest,
                size=kept.size if kept is not None else None,
                basis=item.basis,
            )
        )
    )


def worker_pool(
    workers: int, reader: ItemReader, backup_path: Path, level: int, holder: ContentHolder | None
) -> ProcessPoolExecutor:
    """Return a pool of worker processes that share nothing with this process but the disk."""
    context = multiprocessing.get_context("forkserver")
    # What a worker is given is imported once, not by each of them.
    context.set_forkserver_preload([__name__, type(reader).__module__, type(holder).__module__])
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(reader, backup_path, level, holder)
    )


def read_chunk_in_worker(
    items: Sequence[ChunkItem],
    moment: datetime,
    blobless: bool,  # noqa: FBT001 - executors pass by place
) -> ChunkResult:
    """Read a chunk with what the worker was given when it began; `blobless` is the mode now."""
    if _reader is None or _keeping is None:
        message = "the worker was not begun"
        raise BackupdError(message)
    if _keeping.holder is not None:
        _keeping.leave_with(_keeping.holder, lambda: blobless)
    return read_chunk(items, moment, _reader, _keeping)


def _begin(reader: ItemReader, backup_path: Path, level: int, holder: ContentHolder | None) -> None:
    """Set a worker up."""
    global _reader, _keeping
    begin_worker()
    _reader, _keeping = reader, Keeping(Blobs.at(backup_path, level=level))
    _keeping.holder = holder
