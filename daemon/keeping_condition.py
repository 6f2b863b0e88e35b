"""Keeping as a condition: what losses, checks of coherency and blobless mode leave for the admin. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from backupd.keeping_views import BloblessView, CoherencyView, SuspensionView
from backupd.views import Problem
from daemon.problems import attention, danger

SUSPENSIONS_MAX = 5
"""So many accounts whose retention is suspended are told one by one."""

COHERENCY = "coherency"
MASS_DELETION = "mass_deletion"
MASS_DELETION_MORE = "mass_deletion_of_more"
NOT_HELD = "contents_not_held"
NOT_FETCHED = "contents_not_fetched"


def loss_problems(suspensions: Sequence[SuspensionView]) -> list[Problem]:
    """Return a problem for each account whose retention is suspended, and one for those beyond a few."""
    found = [
        attention(
            MASS_DELETION,
            f"retention of {one.name} is suspended since {one.since:%Y-%m-%d %H:%M} UTC: {one.sentence}",
            "nothing of it is purged; bring back what is missed, and once all is well: "
            f"backupctl backup doResumeRetention {one.id}",
        )
        for one in suspensions[:SUSPENSIONS_MAX]
    ]
    more = len(suspensions) - SUSPENSIONS_MAX
    if more > 0:
        hint = "backupctl backup getSuspendedRetention lists them"
        found.append(attention(MASS_DELETION_MORE, f"retention of {more:,} more accounts is suspended", hint))
    return found


def blobless_problems(mode: BloblessView) -> list[Problem]:
    """Return what is wrong with blobless mode, or left of it."""
    found = []
    if mode.trouble:
        found.append(
            attention(
                NOT_HELD,
                f"blobless mode is set and not in force: {mode.trouble}",
                "contents are stored in the Backup Path meanwhile; mend it, or turn backupBloblessMode off",
            )
        )
    if mode.not_fetched:
        found.append(
            attention(
                NOT_FETCHED,
                f"the contents of {mode.not_fetched:,} items are not in the backup yet: the AppServer alone"
                " holds them since blobless mode",
                "backupctl backup doSmartScan start deep true",
            )
        )
    return found


def coherency_problems(known: CoherencyView, backup_path: str) -> list[Problem]:
    """Return what checks found and nothing has mended."""
    if not known.findings:
        return []
    tell = danger if known.dangers else attention
    return [
        tell(
            COHERENCY,
            f"the coherency check found: {known.words}",
            "backupctl backup getCoherencyFindings says what each means; "
            f"backupctl backup doCoherencyCheck {backup_path} fixBackup true mends what can be mended",
        )
    ]
