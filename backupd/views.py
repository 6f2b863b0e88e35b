"""Views: the parts that replies are made of, as the control socket sends them and `--json` prints them.

Moments are RFC 3339 in UTC, sizes are bytes, durations are seconds. Names of fields are snake_case, but for
those that the specification prints. The replies around them are in `backupd.control`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from backupd.differences import Difference
from backupd.operations import EXIT_STATUS_OF, OperationStatus


class ProgressView(msgspec.Struct, frozen=True, kw_only=True):
    """How far an operation is. `total` 0 means not known yet; `rate` is units per second."""

    done: int = 0
    total: int = 0
    unit: str = "items"
    rate: float = 0.0
    remaining_seconds: float | None = None


class OperationView(msgspec.Struct, frozen=True, kw_only=True):
    """One operation. `errors` are the first of `errors_total` sentences about items that failed.

    `hint` says what to do where it failed.
    """

    uuid: str
    type: str
    status: OperationStatus
    parameters: dict[str, Any] = {}
    started_by: str = ""
    submitted: datetime
    started: datetime | None = None
    ended: datetime | None = None
    progress: ProgressView = ProgressView()
    verdict: str = ""
    hint: str = ""
    errors: tuple[str, ...] = ()
    errors_total: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in EXIT_STATUS_OF


class StateView(msgspec.Struct, frozen=True, kw_only=True, rename={"start": "start-date", "end": "end-date"}):
    """One state of an item, valid from start-date until end-date (null: still).

    `blob_path` is where the content rests, below the Backup Path; empty where there is none. `held`: when
    this was recorded, the content was left with the AppServer.
    """

    transaction: int
    start: datetime
    end: datetime | None = None
    change: str
    deleted: bool = False
    origin: str = ""
    folder: str = ""
    digest: str | None = None
    size: int | None = None
    blob_path: str = ""
    metadata: dict[str, Any] = {}
    events: tuple[str, ...] = ()
    observed: datetime | None = None
    actor: dict[str, Any] | None = None
    lacking: tuple[str, ...] = ()
    held: bool = False


class TurnView(msgspec.Struct, frozen=True, kw_only=True, rename={"start": "start-date"}):
    """What one state of an item brought, in `words` and typed; `events` are those merged into it."""

    transaction: int
    start: datetime
    words: str
    differences: tuple[Difference, ...] = ()
    change: str
    origin: str = ""
    events: tuple[str, ...] = ()
    observed: datetime | None = None
    actor: dict[str, Any] | None = None
    lacking: tuple[str, ...] = ()


class ChangedView(msgspec.Struct, frozen=True, kw_only=True):
    """An item that differs between two moments; `groups` are the counts it is in, `date` its last change."""

    id: str
    kind: str
    folder: str = ""
    subject: str = ""
    date: datetime | None = None
    groups: tuple[str, ...] = ()
    words: str = ""
    differences: tuple[Difference, ...] = ()


class FolderView(msgspec.Struct, frozen=True, kw_only=True):
    """One folder with what lies in it, not below it. `unread` counts messages, `size` is in bytes."""

    area: str
    folder: str
    items: int = 0
    unread: int = 0
    size: int = 0


class FoundItem(msgspec.Struct, frozen=True, kw_only=True):
    """One hit of a search. `date` is the item's own date, `metadata` comes only where asked for."""

    id: str
    kind: str
    folder: str = ""
    date: datetime | None = None
    deleted: bool = False
    deleted_at: datetime | None = None
    subject: str = ""
    sender: str = ""
    size: int | None = None
    metadata: dict[str, Any] | None = None


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """One account. `exists` tells whether the AppServer has it now, `created` when it was first seen.

    `legal_hold`, `retention_suspended` and `enabled` (whether it is backed up) are as they are now.
    """

    id: str
    name: str
    status: str = "active"
    deleted: bool = False
    exists: bool = True
    is_system: bool = False
    domain: str = ""
    cos: str = ""
    created: datetime | None = None
    deleted_at: datetime | None = None
    legal_hold: bool = False
    retention_suspended: bool = False
    enabled: bool = True


class DomainView(msgspec.Struct, frozen=True, kw_only=True):
    """One domain, and how many accounts of it the backup held then."""

    id: str
    name: str
    deleted: bool = False
    accounts: int = 0


class AttributeView(msgspec.Struct, frozen=True, kw_only=True, rename={"is_inherited": "isInherited"}):
    """One attribute at one level. `inherited_from` names the level whose value holds; `default` if none."""

    attribute: str
    value: Any
    is_inherited: bool = False
    inherited_from: str = ""
    modules: tuple[str, ...] = ("ZxBackup",)


class Severity(StrEnum):
    """How bad a problem is: `danger` means that changes are not being backed up or may be lost."""

    ATTENTION = "attention"
    DANGER = "danger"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not well, in one sentence, and what to do; `name` is a stable word for it."""

    severity: Severity
    name: str = ""
    message: str
    hint: str = ""


class ScannerView(msgspec.Struct, frozen=True, kw_only=True):
    """A scanner: whether it is on, whether it works right now, and its last success."""

    enabled: bool = False
    active: bool = False
    last_success: datetime | None = None
    note: str = ""


class BrokerView(msgspec.Struct, frozen=True, kw_only=True):
    """The broker that events come from. Counts are since the daemon's start."""

    url: str = ""
    connected: bool = False
    since: datetime | None = None
    error: str = ""
    received: int = 0
    refused: int = 0
    reconnects: int = 0


class RecorderView(msgspec.Struct, frozen=True, kw_only=True):
    """How far recording is behind the journal."""

    journaled: int = 0
    recorded: int = 0
    lag_entries: int = 0
    lag_seconds: float = 0.0
    paused: str = ""


class GapView(msgspec.Struct, frozen=True, kw_only=True):
    """An open gap; an empty account means the whole server."""

    id: int
    account: str = ""
    account_name: str = ""
    reason: str
    detail: str = ""
    opened: datetime


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True, rename={"is_inherited": "isInherited"}):
    """A job with a time of its own. `missed` runs were not made up for; `note` says what it does not do."""

    job: str
    pattern: str = ""
    enabled: bool = True
    next: datetime | None = None
    last: datetime | None = None
    missed: int = 0
    last_missed: datetime | None = None
    note: str = ""
    is_inherited: bool = False


class CountView(msgspec.Struct, frozen=True, kw_only=True):
    """How many items of a kind the backup holds, and how many of them are deleted."""

    kind: str
    items: int
    deleted: int = 0


class SpaceView(msgspec.Struct, frozen=True, kw_only=True):
    """Room on the Backup Path's file system; below the threshold nothing new is acknowledged."""

    free_bytes: int = 0
    total_bytes: int = 0
    threshold_bytes: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    journal_bytes: int = 0


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the daemon that can be started and stopped. `note` is why it does not work though it runs."""

    name: str
    running: bool
    meaning: str = ""
    note: str = ""


class ArchiveView(msgspec.Struct, frozen=True, kw_only=True):
    """One archive of the server's configuration; `date` is when it was made."""

    path: str
    type: str
    date: datetime
    size: int


class ServerFact(msgspec.Struct, frozen=True, kw_only=True):
    """One value of an archive, found under `type/id/key`."""

    type: str
    id: str
    key: str
    value: Any


class NotificationView(msgspec.Struct, frozen=True, kw_only=True):
    """One notification. `delivered` and `failed` name the ways it went; `pending` ones are tried again."""

    id: int
    time: datetime
    level: str
    subject: str
    operation: str = ""
    text: str = ""
    delivered: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


class LogLineView(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an operation's log."""

    operation: str
    timestamp: str
    level: str
    event: str
    facts: dict[str, Any] = {}


class Outcome(StrEnum):
    """How a check ended; the words of monitoring plugins."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


EXIT_STATUS_OF_OUTCOME = {Outcome.OK: 0, Outcome.WARNING: 1, Outcome.CRITICAL: 2, Outcome.UNKNOWN: 3}
"""The exit statuses of monitoring plugins."""


class CheckView(msgspec.Struct, frozen=True, kw_only=True):
    """One check of the set-up: what was found, and the cure; where all is well `cure` is advice."""

    name: str
    outcome: Outcome
    found: str
    cure: str = ""
