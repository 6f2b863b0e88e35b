"""The sections of the configuration file: every key with its type, its range and its default.

`backupd.config` reads the file into them; `config/backupd.toml` shows them all.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

EMBEDDED = "embedded"
"""The `url` that asks for the broker inside the daemon."""

Identifier = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2_000,
        pattern=r"^https?://[^\s\x00-\x20\x7f]+\Z",
        description="a URL that begins with http:// or https://",
    ),
]


class LogFormat(StrEnum):
    """How a log line looks: for machines or for people."""

    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least important lines that are still written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AppServerKind(StrEnum):
    """The AppServers this version can back up."""

    DIRECTORY = "directory"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Whose backup this is, and where it lies. An empty `id` means: the one kept in `state_directory`."""

    id: Identifier | None = None
    name: Name
    backup_path: Path
    state_directory: Path


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Where events come from: `mqtt://host:port`, `mqtts://host:port` or `embedded`."""

    url: Name = EMBEDDED
    username: Name | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    receive_max: Annotated[int, Meta(ge=1, le=65_535)] = 1_000

    @property
    def is_embedded(self) -> bool:
        """Whether the daemon is its own broker."""
        return self.url.casefold() == EMBEDDED


class AppServer(msgspec.Struct, frozen=True, kw_only=True):
    """Whom we back up. `watch`: publish what changes there to the broker."""

    kind: AppServerKind = AppServerKind.DIRECTORY
    root: Path
    watch: bool = True


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """Where the daemon listens to admins. Members of `group` may read."""

    socket: Path
    group: Name | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon logs, on its standard error."""

    format: LogFormat = LogFormat.JSON
    level: LogLevel = LogLevel.INFO


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """How SmartScan reads. `workers` are processes; 0 reads inside the daemon."""

    workers: Annotated[int, Meta(ge=0, le=64)]


class Realtime(msgspec.Struct, frozen=True, kw_only=True):
    """How events are taken."""

    coalesce_window_ms: Annotated[int, Meta(ge=0, le=60_000)] = 100
    event_bytes_max: Annotated[int, Meta(ge=1_024, le=256 << 20)] = 1 << 20


class Customizations(msgspec.Struct, frozen=True, kw_only=True):
    """The server's own files that are archived; folders with all that is in them."""

    paths: tuple[Path, ...] = ()
    file_bytes_max: Annotated[int, Meta(ge=1_024, le=1 << 40)] = 64 << 20


class SmtpSecurity(StrEnum):
    """How a connection to the mail server is secured: TLS from the start, TLS asked for, or not at all."""

    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


class Notifications(msgspec.Struct, frozen=True, kw_only=True):
    """How admins are told. Without `smtp_host` there is no e-mail, without its URL no webhook and no ping."""

    smtp_host: Name | None = None
    smtp_port: Annotated[int, Meta(ge=1, le=65_535)] = 587
    smtp_security: SmtpSecurity = SmtpSecurity.STARTTLS
    smtp_ca_file: Path | None = None
    smtp_username: Name | None = None
    smtp_password_file: Path | None = None
    sender: Name | None = None
    recipients: tuple[Name, ...] = ()
    webhook_url: Url | None = None
    webhook_token_file: Path | None = None
    ping_url: Url | None = None


SECRET_KEYS = frozenset({"webhook_url", "ping_url"})
"""Keys whose values let whoever knows them speak for this server: never printed, never logged."""


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Where metrics can be read besides the control socket: `host:port`, by whoever reaches it."""

    listen: Annotated[str, Meta(max_length=255, pattern=r"^\S+:\d{1,5}$")] | None = None


class Encryption(msgspec.Struct, frozen=True, kw_only=True):
    """Where the master keys for encrypted volumes are: in a file, or printed by a command (no shell)."""

    key_file: Path | None = None
    key_command: tuple[Name, ...] = ()


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": Server,
    "broker": Broker,
    "appserver": AppServer,
    "control": Control,
    "log": Log,
    "scan": Scan,
    "realtime": Realtime,
    "customizations": Customizations,
    "notifications": Notifications,
    "metrics": Metrics,
    "encryption": Encryption,
}
"""Every section by its name."""
