"""Configuration: the one TOML file that the daemon must know before it can speak, read into frozen structs.

Every key has a type, a range and a default in the structs below; `config/backupd.toml` shows them all. An
unknown section or key, a value of the wrong type or out of range, and a file that can't be read are each a
`ConfigError` of one line that names what is valid. Relative paths start at the folder of the file, `~` is the
home. Defaults follow the FHS for a service and XDG for a plain user.

Secrets come from a file, a systemd credential or the environment, in this order; as a `Secret` they show
themselves to nobody. What the daemon makes once and keeps (its server id, a Backup Path chosen by an
attribute) lies in the state directory.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin
from uuid import uuid4

import msgspec
from msgspec import Meta

from backupd import durable
from backupd.config_sections import (
    SECTIONS,
    AppServer,
    Broker,
    Control,
    Customizations,
    Encryption,
    Identifier,
    Log,
    Metrics,
    Notifications,
    Realtime,
    Scan,
    Server,
)
from backupd.decoding import converted
from backupd.errors import ConfigError
from backupd.parameters import did_you_mean
from backupd.secret import Secret, everybody_may_read, read_secret

SERVICE_FILE = Path("/etc/backupd/backupd.toml")
SERVICE_BACKUP_PATH = Path("/opt/zextras/backup/zextras")
SERVICE_STATE_DIRECTORY = Path("/var/lib/backupd")
SERVICE_SOCKET = Path("/run/backupd/control.sock")
PASSWORD_CREDENTIAL = "broker_password"  # noqa: S105 - the credential's name, not its content
PASSWORD_VARIABLE = "BACKUPD_BROKER_PASSWORD"  # noqa: S105 - the variable's name, not its content
FILE_BYTES_MAX = 1 << 20
KNOWN_BACKUPS = "known_backups"
"""The file in the state directory that names each Backup Path which held a backup of ours."""
_SYSTEM_UID_MAX = 999


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file; `file` is where it was read from."""

    file: Path
    server: Server
    broker: Broker
    appserver: AppServer
    control: Control
    log: Log
    scan: Scan
    realtime: Realtime
    customizations: Customizations
    notifications: Notifications
    metrics: Metrics
    encryption: Encryption


def load(
    file: Path | None = None, *, environ: Mapping[str, str] | None = None, uid: int | None = None
) -> Config:
    """Read a configuration file, by default the one at its usual place. Raises `ConfigError`; blocks."""
    environ = os.environ if environ is None else environ
    service = runs_as_service(environ, os.geteuid() if uid is None else uid)
    path = default_file(environ, service=service) if file is None else file
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, which the admin did not name
    return _config_of(_table_in(path), path, environ, service=service)


def runs_as_service(environ: Mapping[str, str], uid: int) -> bool:
    """Tell whether the places of a service hold: for root, system users and whatever systemd started."""
    return uid <= _SYSTEM_UID_MAX or "STATE_DIRECTORY" in environ


def default_file(environ: Mapping[str, str], *, service: bool) -> Path:
    """Return where the configuration file is looked for."""
    if service:
        return SERVICE_FILE
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "backupd" / "backupd.toml"


def broker_password(broker: Broker, environ: Mapping[str, str] | None = None) -> Secret | None:
    """Return the broker's password, or None where there is none; blocks. Raises `ConfigError`."""
    environ = os.environ if environ is None else environ
    path = password_path(broker, environ)
    if path is not None:
        return read_secret(path)
    return Secret(environ[PASSWORD_VARIABLE]) if environ.get(PASSWORD_VARIABLE) else None


def password_path(broker: Broker, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the file with the broker's password: the configured one, else the systemd credential."""
    environ = os.environ if environ is None else environ
    if broker.password_file is not None:
        return broker.password_file
    directory = environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(directory) / PASSWORD_CREDENTIAL if directory else None
    return credential if credential is not None and credential.exists() else None


def warnings(config: Config) -> list[str]:
    """Return what works but should not stay so: secrets that others may read."""
    secrets = {
        "broker.password_file": config.broker.password_file,
        "broker.key_file": config.broker.key_file,
        "notifications.smtp_password_file": config.notifications.smtp_password_file,
        "notifications.webhook_token_file": config.notifications.webhook_token_file,
        "encryption.key_file": config.encryption.key_file,
    }
    return [
        f"{key} {path} may be read by everybody: chmod o-rwx {path}"
        for key, path in secrets.items()
        if path is not None and everybody_may_read(path)
    ]


def server_id(server: Server) -> str:
    """Return the server's id: the configured one, else the one made once and kept; blocks.

    Raises `ConfigError` where it can't be kept: an id that changes at every start would orphan the backup.
    """
    if server.id is not None:
        return server.id
    path = server.state_directory / "server_id"
    try:
        if path.exists():
            kept = path.read_text("utf-8").strip()
            return converted(kept, Identifier)
        made = str(uuid4())
        _keep(path, made)
    except (OSError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"the server's id can't be kept in {path}: {error}",
            hint="make server.state_directory writable for the service, or set server.id",
            path=str(path),
        ) from error
    return made


def backup_path(server: Server) -> Path:
    """Return the Backup Path in force: the one chosen by an admin while running, else the configured one."""
    path = server.state_directory / "backup_path"
    try:
        kept = path.read_text("utf-8").rstrip("\n")
    except FileNotFoundError:
        return server.backup_path
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} can't be read: {error}", hint="it names the Backup Path in force"
        ) from error
    return Path(kept) if kept.startswith("/") else server.backup_path


def choose_backup_path(server: Server, chosen: Path | None) -> None:
    """Keep another Backup Path than the configured one, for the next start; None returns to it; blocks."""
    path = server.state_directory / "backup_path"
    if chosen is None:
        path.unlink(missing_ok=True)
    elif not chosen.is_absolute() or "\n" in str(chosen):
        raise ConfigError(f"not an absolute path: {str(chosen)!r}")
    else:
        _keep(path, str(chosen))


def note_backup(server: Server, path: Path, *, there: bool) -> None:
    """Keep whether a Backup Path holds a backup of ours: an empty directory there is a lost mount; blocks."""
    kept = known_backups(server)
    if (str(path) in kept) != there:
        others = [one for one in kept if one != str(path)]
        _keep(server.state_directory / KNOWN_BACKUPS, "\n".join([*others, str(path)] if there else others))


def known_backups(server: Server) -> list[str]:
    """Return the Backup Paths that held a backup of ours; blocks."""
    try:
        text = (server.state_directory / KNOWN_BACKUPS).read_text("utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.startswith("/")]


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.replace_file(path, text.encode() + b"\n")


def _table_in(path: Path) -> dict[str, Any]:
    """Return the file's content. Raises `ConfigError`, with the line where the TOML is broken."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(f"{path} is larger than {FILE_BYTES_MAX} bytes: is it a configuration?")
        return tomllib.loads(content.decode("utf-8"))
    except FileNotFoundError as error:
        hint = "start from the annotated config/backupd.toml, or name another file with --config"
        raise ConfigError(f"there is no configuration at {path}", hint=hint) from error
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}", hint="check its owner and mode"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} is not UTF-8 in line {line}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error


def _config_of(table: Mapping[str, Any], path: Path, environ: Mapping[str, str], *, service: bool) -> Config:
    for name, value in table.items():
        if name not in SECTIONS:
            what = "section" if isinstance(value, dict) else "key outside a section"
            home = "" if isinstance(value, dict) else _section_with(name)
            hint = f"it belongs below [{home}]" if home else did_you_mean(name, SECTIONS, what="section")
            raise ConfigError(f"{path}: unknown {what} {name!r}", hint=hint)
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {name} is a section", hint=f"write [{name}] on a line of its own")
    defaults = _defaults(environ, service=service)
    sections: dict[str, Any] = {}
    for name, struct in SECTIONS.items():
        values = _values_of(name, struct, table.get(name, {}), path)
        sections[name] = {**defaults.get(name, {}), **values}
    # What is wrong is told before what is missing.
    for name, struct in SECTIONS.items():
        sections[name] = _made(name, struct, sections[name], path)
    return Config(file=path, **sections)


def _section_with(key: str) -> str:
    """Return the section that has this key, or an empty text."""
    for section, struct in SECTIONS.items():
        if key in struct.__struct_fields__:
            return section
    return ""


def _values_of(
    section: str, struct: type[msgspec.Struct], given: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    values = {}
    for key, value in given.items():
        if key not in fields:
            raise ConfigError(
                f"{path}: unknown key {section}.{key}", hint=did_you_mean(key, fields, what="key")
            )
        values[key] = _value_of(f"{section}.{key}", fields[key].type, value, path)
    return values


def _made(
    section: str, struct: type[msgspec.Struct], values: Mapping[str, Any], path: Path
) -> msgspec.Struct:
    for field in msgspec.structs.fields(struct):
        if field.required and field.name not in values:
            key = f"{section}.{field.name}"
            raise ConfigError(f"{path}: {key} is missing", hint=f"it is {_expected(field.type)}")
    return struct(**values)


def _value_of(key: str, wanted: Any, value: Any, path: Path) -> Any:
    if get_origin(wanted) is tuple:
        if not isinstance(value, list):
            raise _wrong(key, _expected(wanted), value, path)
        return tuple(_value_of(key, get_args(wanted)[0], one, path) for one in value)
    if wanted is Path or Path in get_args(wanted):
        if not isinstance(value, str) or not value or "\0" in value:
            raise _wrong(key, "a path", value, path)
        try:
            return Path(os.path.normpath(path.parent / Path(value).expanduser()))
        except RuntimeError as error:
            raise _wrong(key, "a path below a home that exists", value, path) from error
    try:
        return converted(value, wanted)
    except msgspec.ValidationError as error:
        raise _wrong(key, _expected(wanted), value, path) from error


def _wrong(key: str, expected: str, value: Any, path: Path) -> ConfigError:
    found = repr(value) if len(repr(value)) <= 80 else repr(value)[:79] + "…"  # noqa: PLR2004 - one line
    if "password" in key or key in ("notifications.webhook_url", "notifications.ping_url"):
        found = "something else"
    return ConfigError(f"{path}: {key} must be {expected}, not {found}", key=key)


def _expected(wanted: Any) -> str:  # noqa: PLR0911 - one line a type
    """Return a key's type and range in words."""
    if get_origin(wanted) is tuple:
        return f"a list of which each is {_expected(get_args(wanted)[0])}"
    if wanted is bool:
        return "true or false"
    if wanted is Path or Path in get_args(wanted):
        return "a path"
    if isinstance(wanted, type) and issubclass(wanted, StrEnum):
        return "one of " + ", ".join(f'"{member.value}"' for member in wanted)
    for part in (wanted, *get_args(wanted)):
        for meta in get_args(part):
            if isinstance(meta, Meta) and meta.ge is not None:
                return f"a whole number from {meta.ge} to {meta.le}"
            if isinstance(meta, Meta) and meta.description is not None:
                return meta.description
            if isinstance(meta, Meta):
                return f"a text of 1 to {meta.max_length} characters without control characters"
    return "a text"


def _defaults(environ: Mapping[str, str], *, service: bool) -> dict[str, dict[str, Any]]:
    """Return the defaults that depend on who runs the daemon and on what."""
    if service:
        backups, state, socket = SERVICE_BACKUP_PATH, SERVICE_STATE_DIRECTORY, SERVICE_SOCKET
    else:
        backups = _xdg(environ, "XDG_DATA_HOME", ".local/share") / "backupd" / "backup"
        state = _xdg(environ, "XDG_STATE_HOME", ".local/state") / "backupd"
        runtime = environ.get("XDG_RUNTIME_DIR", "")
        socket = (Path(runtime) / "backupd" if runtime.startswith("/") else state) / "control.sock"
    return {
        "server": {
            "name": os.uname().nodename or "localhost",
            "backup_path": backups,
            "state_directory": state,
        },
        "control": {"socket": socket},
        "scan": {"workers": min(4, len(os.sched_getaffinity(0)))},
    }


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """Return a base directory; a relative one is ignored, as the XDG specification says."""
    value = environ.get(variable, "")
    return (
        Path(value) if value.startswith("/") else Path(environ.get("HOME") or "~").expanduser() / below_home
    )
