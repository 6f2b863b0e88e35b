"""Control: what travels over the control socket, shared by the daemon and whoever asks it.

Every answer is one JSON object with `reply` (which of the structs below it is) and `version` (of this
contract: it grows only when a field changes its meaning or goes; new fields may come at any time, and readers
ignore what they don't know). Moments are RFC 3339 in UTC, sizes are bytes, durations are seconds. Names of
fields are snake_case, but for those that the specification prints. `backupctl --json` prints these objects
as they come.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from backupd.operations import EXIT_STATUS_OF, OperationStatus

CONTROL_VERSION = 1
REQUEST_BYTES_MAX = 256 * 1024
"""Bound of a request's body, in bytes."""
SERVER_HEADER = "X-Backupd-Server"
"""Request header that names the server meant (`--host`); refused where it is another one's."""
SERVICE_SOCKET = "/run/backupd/control.sock"
USER_SOCKET = "backupd/control.sock"
"""Where the socket is: of a service; of a plain user's daemon, below $XDG_RUNTIME_DIR."""
EVENT_PROGRESS = "progress"
EVENT_ENDED = "ended"
"""Names of the server-sent events of an operation; each carries an `OperationReply`."""


class CommandRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A command with its values by parameter name; once checked, `parameters` holds every one of them."""

    module: str = ""
    command: str = ""
    parameters: dict[str, Any] = {}
    version: int = CONTROL_VERSION


class _Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply"):
    version: int = CONTROL_VERSION


class ErrorReply(_Answer, frozen=True, kw_only=True, tag="error"):
    """Why a request was refused or failed, what to do, and the exit status of a console that hears it."""

    message: str
    hint: str = ""
    exit_status: int = 1


class DoneReply(_Answer, frozen=True, kw_only=True, tag="done"):
    """The command did what it says. `text` is what a console prints."""

    text: str = "ok"


# --- operations ------------------------------------------------------------------------------------------


class ProgressView(msgspec.Struct, frozen=True, kw_only=True):
    """How far an operation is. `total` 0 means not known yet; `rate` is units per second."""

    done: int = 0
    total: int = 0
    unit: str = "items"
    rate: float = 0.0
    remaining_seconds: float | None = None


class OperationView(msgspec.Struct, frozen=True, kw_only=True):
    """One operation. `errors` are the first of `errors_total` sentences about items that failed."""

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
    errors: tuple[str, ...] = ()
    errors_total: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in EXIT_STATUS_OF


class OperationReply(_Answer, frozen=True, kw_only=True, tag="operation"):
    """One operation: queued by a command, or asked about."""

    operation: OperationView


class OperationsReply(_Answer, frozen=True, kw_only=True, tag="operations"):
    """Several operations, in the order of their submission."""

    operations: tuple[OperationView, ...]


# --- items -----------------------------------------------------------------------------------------------


class StateView(msgspec.Struct, frozen=True, kw_only=True, rename={"start": "start-date", "end": "end-date"}):
    """One state of an item, valid from start-date until end-date (null: still).

    `blob_path` is where the content rests, below the Backup Path; empty where there is none.
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


class ItemReply(_Answer, frozen=True, kw_only=True, tag="item"):
    """An item with the states that were asked for, oldest first."""

    account: str
    account_name: str = ""
    item: str
    kind: str
    states: tuple[StateView, ...]


class BlobReply(_Answer, frozen=True, kw_only=True, tag="blob"):
    """Where the content that was asked for can be had: `GET /v1/blobs/<digest>`."""

    digest: str
    size: int


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


class SearchReply(_Answer, frozen=True, kw_only=True, tag="search"):
    """The items found; `more` tells that the limit cut the list."""

    account: str
    account_name: str = ""
    items: tuple[FoundItem, ...]
    more: bool = False


# --- settings --------------------------------------------------------------------------------------------


class AttributeView(msgspec.Struct, frozen=True, kw_only=True, rename={"is_inherited": "isInherited"}):
    """One attribute at one level. `inherited_from` names the level whose value holds; `default` if none."""

    attribute: str
    value: Any
    is_inherited: bool = False
    inherited_from: str = ""
    modules: tuple[str, ...] = ("ZxBackup",)


class ConfigReply(_Answer, frozen=True, kw_only=True, tag="config"):
    """Attributes at a level (`global`, `server`, `cos`, `account`); `subject` is the id of whose they are."""

    level: str
    subject: str = ""
    values: tuple[AttributeView, ...]


class AttributeReply(_Answer, frozen=True, kw_only=True, tag="attribute"):
    """What there is to know about an attribute."""

    attribute: str
    type: str
    default: Any
    range: str = ""
    levels: tuple[str, ...] = ()
    meaning: str = ""
    modules: tuple[str, ...] = ("ZxBackup",)


# --- the whole -------------------------------------------------------------------------------------------


class Severity(StrEnum):
    """How bad a problem is: `danger` means that changes are not being backed up or may be lost."""

    ATTENTION = "attention"
    DANGER = "danger"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not well, in one sentence, and what to do about it."""

    severity: Severity
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
    reason: str
    detail: str = ""
    opened: datetime


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A job with a time of its own."""

    job: str
    pattern: str = ""
    enabled: bool = True
    next: datetime | None = None
    last: datetime | None = None


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


class StatusReply(_Answer, frozen=True, kw_only=True, tag="status"):
    """Everything an admin wants to know first. Without problems all is well.

    `recoverable_until` is the moment up to which every change known to the AppServer is in the backup.
    `gaps` are the first of `gaps_total`; `operations` are those that run or wait.
    """

    server_id: str
    server_name: str
    backup_path: str
    daemon_version: str = ""
    pid: int = 0
    started: datetime
    now: datetime
    recoverable_until: datetime | None = None
    problems: tuple[Problem, ...] = ()
    realtime: ScannerView = ScannerView()
    smartscan: ScannerView = ScannerView()
    broker: BrokerView = BrokerView()
    recorder: RecorderView = RecorderView()
    waiting_photographs: int = 0
    gaps: tuple[GapView, ...] = ()
    gaps_total: int = 0
    operations: tuple[OperationView, ...] = ()
    schedules: tuple[ScheduleView, ...] = ()
    accounts: int = 0
    counts: tuple[CountView, ...] = ()
    space: SpaceView = SpaceView()


class BackupInfoReply(_Answer, frozen=True, kw_only=True, tag="backup-info"):
    """Whose backup a Backup Path is, and what it holds."""

    backup_path: str
    server_id: str
    server_name: str = ""
    format_version: int = 1
    created: datetime | None = None
    first_scan: datetime | None = None
    last_scan: datetime | None = None
    imported_from: str = ""
    accounts: int = 0
    accounts_deleted: int = 0
    counts: tuple[CountView, ...] = ()
    space: SpaceView = SpaceView()


Reply = (
    DoneReply
    | ErrorReply
    | OperationReply
    | OperationsReply
    | ItemReply
    | BlobReply
    | SearchReply
    | ConfigReply
    | AttributeReply
    | StatusReply
    | BackupInfoReply
)

_encoder = msgspec.json.Encoder()
_reply_decoder: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
_request_decoder = msgspec.json.Decoder(CommandRequest)


def encode(answer: Reply | CommandRequest) -> bytes:
    """Return an answer or a request as one line of JSON."""
    return _encoder.encode(answer)


def decode_reply(content: bytes) -> Reply:
    """Read an answer. Raises `msgspec.DecodeError` for what is none."""
    return _reply_decoder.decode(content)


def decode_request(content: bytes) -> CommandRequest:
    """Read a command's request. Raises `msgspec.DecodeError` for what is none."""
    return _request_decoder.decode(content)
