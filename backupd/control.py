"""Control: what travels over the control socket, shared by the daemon and whoever asks it.

Every answer is one JSON object with `reply` (which of the structs below it is) and `version` (of this
contract: it grows only when a field changes its meaning or goes; new fields may come at any time, and readers
ignore what they don't know). Moments are RFC 3339 in UTC, sizes are bytes, durations are seconds. Names of
fields are snake_case, but for those that the specification prints. `backupctl --json` prints these objects
as they come.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from backupd.decoding import decoder
from backupd.keeping_views import (
    BloblessView,
    CoherencyCount,
    CoherencyView,
    FindingView,
)
from backupd.replies import (
    CONTROL_VERSION,
    AccountReply,
    AccountsReply,
    Answer,
    BlobReply,
    DiffReply,
    DomainsReply,
    FoldersReply,
    HistoryReply,
    HoldsReply,
    ItemReply,
    SearchReply,
    SuspensionsReply,
)
from backupd.views import (
    ArchiveView,
    AttributeView,
    BrokerView,
    CheckView,
    CountView,
    GapView,
    LogLineView,
    NotificationView,
    OperationView,
    Outcome,
    Problem,
    RecorderView,
    ScannerView,
    ScheduleView,
    ServerFact,
    ServiceView,
    SpaceView,
)
from backupd.volume_views import BucketView, VolumeView

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


class ErrorReply(Answer, frozen=True, kw_only=True, tag="error"):
    """Why a request was refused or failed, what to do, and the exit status of a console that hears it."""

    message: str
    hint: str = ""
    exit_status: int = 1


class DoneReply(Answer, frozen=True, kw_only=True, tag="done"):
    """The command did what it says. `text` is what a console prints, `note` what an admin should know too."""

    text: str = "ok"
    note: str = ""


# --- operations ------------------------------------------------------------------------------------------


class OperationReply(Answer, frozen=True, kw_only=True, tag="operation"):
    """One operation: queued by a command, or asked about. `note` says what of the command has no effect."""

    operation: OperationView
    note: str = ""


class OperationsReply(Answer, frozen=True, kw_only=True, tag="operations"):
    """Several operations, in the order of their submission."""

    operations: tuple[OperationView, ...]


# --- items -----------------------------------------------------------------------------------------------


# --- settings --------------------------------------------------------------------------------------------


class ConfigReply(Answer, frozen=True, kw_only=True, tag="config"):
    """Attributes at a level (`global`, `server`, `cos`, `account`); `subject` is the id of whose they are."""

    level: str
    subject: str = ""
    values: tuple[AttributeView, ...]


class AttributeReply(Answer, frozen=True, kw_only=True, tag="attribute"):
    """What there is to know about an attribute."""

    attribute: str
    type: str
    default: Any
    range: str = ""
    levels: tuple[str, ...] = ()
    meaning: str = ""
    modules: tuple[str, ...] = ("ZxBackup",)


class BucketsReply(Answer, frozen=True, kw_only=True, tag="buckets"):
    """Bucket configurations, in the order in which they were made; after a change the one that changed.

    `note` is what an admin should know besides.
    """

    buckets: tuple[BucketView, ...]
    note: str = ""


class SchedulesReply(Answer, frozen=True, kw_only=True, tag="schedules"):
    """When a job runs, at a level (`global`, `server`); `subject` is the server's id."""

    level: str
    subject: str = ""
    schedules: tuple[ScheduleView, ...]


# --- the whole -------------------------------------------------------------------------------------------


class StatusReply(Answer, frozen=True, kw_only=True, tag="status"):
    """Everything an admin wants to know first. Without problems all is well.

    `recoverable_until` is the moment up to which every change known to the AppServer is in the backup.
    `gaps` are the first of `gaps_total`; `operations` are those that run or wait;
    `last_proven_restore` is when a restore drill last succeeded, `last_purge` when a purge came to its end;
    `volume` is the external one, if any;
    `condemned_blobs` are those that nothing refers to and that the next purges remove; `legal_holds` counts
    accounts with a hold of their own, `all_held` tells that all are held.
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
    last_proven_restore: datetime | None = None
    volume: VolumeView | None = None
    last_purge: datetime | None = None
    condemned_blobs: int = 0
    legal_holds: int = 0
    all_held: bool = False
    retention_suspended: int = 0
    accounts_not_enabled: int = 0
    coherency: CoherencyView = CoherencyView()
    blobless: BloblessView = BloblessView()


class BackupInfoReply(Answer, frozen=True, kw_only=True, tag="backup-info"):
    """Whose backup a Backup Path is, and what it holds.

    `blobless` is the mode now, of the running daemon's own Backup Path only.
    """

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
    blobless: BloblessView | None = None


class MapReply(Answer, frozen=True, kw_only=True, tag="map"):
    """What a map file says: whose backup the path is, since when, and from where it was imported."""

    path: str
    server_id: str
    server_name: str = ""
    format_version: int = 1
    created: datetime | None = None
    imported_from: str = ""
    entries: dict[str, str] = {}


class ServerConfigReply(Answer, frozen=True, kw_only=True, tag="server-config"):
    """What archives of the server's configuration hold. With date `all` only the archives are listed.

    `query` is what was asked for, without slashes around it.
    """

    type: str
    archives: tuple[ArchiveView, ...] = ()
    query: str = ""
    values: tuple[ServerFact, ...] = ()
    more: bool = False


class ServicesReply(Answer, frozen=True, kw_only=True, tag="services"):
    """The parts of the daemon that can be started and stopped."""

    services: tuple[ServiceView, ...]


class NotificationsReply(Answer, frozen=True, kw_only=True, tag="notifications"):
    """What admins were told, the newest first; the text comes only where one is asked for."""

    notifications: tuple[NotificationView, ...]


class OperationLogReply(Answer, frozen=True, kw_only=True, tag="operation-log"):
    """What the daemon logged while it worked on operations; `dropped` lines did not fit any more."""

    lines: tuple[LogLineView, ...]
    dropped: int = 0


class DoctorReply(Answer, frozen=True, kw_only=True, tag="doctor"):
    """Whether the set-up works end to end: one check a line, the worst outcome of all of them."""

    outcome: Outcome
    checks: tuple[CheckView, ...]


class CoherencyReply(Answer, frozen=True, kw_only=True, tag="coherency"):
    """What coherency checks found in a Backup Path: numbers by code, then the findings.

    `share` is the part of the present pass that is done; `more` findings are counted and not listed.
    """

    path: str
    clean: bool = True
    verdict: str = ""
    checked: datetime | None = None
    last_whole: datetime | None = None
    share: float = 0.0
    counts: tuple[CoherencyCount, ...] = ()
    findings: tuple[FindingView, ...] = ()
    more: int = 0


Reply = (
    DoneReply
    | ErrorReply
    | OperationReply
    | OperationsReply
    | OperationLogReply
    | ItemReply
    | BlobReply
    | SearchReply
    | HistoryReply
    | DiffReply
    | FoldersReply
    | AccountReply
    | AccountsReply
    | DomainsReply
    | HoldsReply
    | SuspensionsReply
    | ConfigReply
    | AttributeReply
    | BucketsReply
    | SchedulesReply
    | StatusReply
    | BackupInfoReply
    | MapReply
    | ServerConfigReply
    | ServicesReply
    | NotificationsReply
    | DoctorReply
    | CoherencyReply
)

_encoder = msgspec.json.Encoder()
_reply_decoder: msgspec.json.Decoder[Reply] = decoder(Reply)
_request_decoder = decoder(CommandRequest)


def encode(answer: Reply | CommandRequest) -> bytes:
    """Return an answer or a request as one line of JSON."""
    return _encoder.encode(answer)


def decode_reply(content: bytes) -> Reply:
    """Read an answer. Raises `msgspec.DecodeError` for what is none."""
    return _reply_decoder.decode(content)


def decode_request(content: bytes) -> CommandRequest:
    """Read a command's request. Raises `msgspec.DecodeError` for what is none."""
    return _request_decoder.decode(content)
