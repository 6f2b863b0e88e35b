"""Every durable step of the program by the scene in which it is passed, kept by hand on purpose.

A step that vanishes from the code, or comes new, fails a test here until this list says so: none is without a
kill.
"""

from __future__ import annotations

import ast
from pathlib import Path

STREAM = (
    "journal.append",
    "journal.append_written",
    "journal.append_synced",
    "intake.journaled",
    "intake.acknowledged",
    "blobs.commit",
    "volume.stage",
    "volume.sync_content",
    "volume.contents_synced",
    "volume.rename",
    "volume.renamed",
    "volume.sync_names",
    "volume.published",
    "blobs.committed",
    "history.append",
    "history.created",
    "history.grown",
    "history.appended",
    "index.begin",
    "index.commit",
    "index.committed",
    "ledger.begin",
    "ledger.commit",
    "ledger.committed",
    "checkpoint.sync",
    "checkpoint.synced",
    "checkpoint.done",
    "file_system.sync",
    "quarantine.write",
    "quarantine.written",
    "quarantine.rotated",
)
"""Passed while events come in and are recorded."""

CREATION = (
    "replace_file.written",
    "replace_file.renamed",
    "journal.begin_segment",
    "journal.segment_written",
    "journal.segment_begun",
    "index.build",
    "index.built",
)
"""Passed while a Backup Path is made."""

SCAN = ("statistics.written", "statistics.renamed", "archive.written")
"""Passed by a scan, besides many of the stream's."""

RESTORE = ("delivery.message_written", "delivery.named")
"""Passed by the restore of an item."""

ACCOUNT_RESTORE = ("deliveries.contents_synced", "delivery.locked", "deliveries.named")
"""Passed by restores into accounts, which put many items together."""

UPLOAD = (
    "catalog.commit",
    "catalog.committed",
    "sending.intend",
    "sending.put",
    "sending.put_done",
    "sending.read_back",
    "sending.confirmed",
    "cache.evict",
    "reclaiming.delete",
    "reclaiming.deleted",
)
"""Passed on the way to the external volume, and when room there is given back."""
METADATA = (
    "metadata.send",
    "metadata.states_sent",
    "metadata.sent",
    "metadata.archive",
    "metadata.archived",
    "metadata.summarised",
    "metadata.remove",
)
"""Passed while metadata is sent."""
MIGRATION = ("migrate.put", "migrate.read_back")
"""Passed as contents are copied to another volume."""
REPAIR = (
    "coherency.move",
    "coherency.moved",
    "coherency.kept_aside",
    "coherency.replaced",
    "coherency.written_anew",
    "coherency.losses_noted",
)
"""Passed by a repair."""
BLOBLESS = ("holding.linked", "holding.named", "holding.sync", "holding.synced", "holding.release")
"""Passed in blobless mode, the last one only after it was turned off."""
PURGE = (
    "purge.listed",
    "purge.intended",
    "purge.history",
    "purge.histories_removed",
    "purge.histories_gone",
    "purge.forgotten",
    "purge.account",
    "purge.account_moved",
    "purge.account_gone",
    "purge.account_forgotten",
    "purge.emptied",
    "blobs.remove",
    "blobs.removed",
)
"""Passed by a purge."""

AFTER_DAMAGE = ("journal.cut_tail", "history.repair")
"""Passed by a start after a power cut that tore what was being written."""

ELSEWHERE = {
    "mending.content_written": "doRestoreBlobs: a kill leaves the old file, and one aside that nothing lists",
    "mending.content_placed": "doRestoreBlobs: a kill leaves the new file, and the old one aside",
    "journal.trim": "a kill leaves some of the segments that nobody needs, for the next time",
    "purge.completed": "passed by a start after a kill in a purge, and judged there",
    "mounted.marker_written": "prepare: a kill leaves no marker, and a file aside that the next try replaces",
    "mounted.write": "killed in tests/unit/volumes/test_mounted.py",
    "mounted.written": "killed in tests/unit/volumes/test_mounted.py",
    "mounted.named": "killed in tests/unit/volumes/test_mounted.py",
}
"""Steps without a kill, and why."""

ALL = {
    *STREAM,
    *CREATION,
    *SCAN,
    *RESTORE,
    *ACCOUNT_RESTORE,
    *UPLOAD,
    *METADATA,
    *MIGRATION,
    *REPAIR,
    *BLOBLESS,
    *PURGE,
    *AFTER_DAMAGE,
    *ELSEWHERE,
}


def steps_in_code(repository: Path) -> dict[str, str]:
    """Return the name of every durable step in the source, and the file that has it."""
    found: dict[str, str] = {}
    for package in ("backupd", "daemon"):
        for path in (repository / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "step":
                    assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: no plain name"
                    found[str(node.args[0].value)] = str(path.relative_to(repository))
    return found
