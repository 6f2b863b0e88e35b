"""The configuration: whether the file can still be used, is the one in force, and keeps its secrets.

Reads only; unlike a start it makes no server id.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from backupd import config as configuration
from backupd.config import Config
from backupd.config_sections import SECTIONS
from backupd.errors import ConfigError
from backupd.jobs.doctor import verdict
from backupd.secret import everybody_may_read, read_secret
from backupd.views import CheckView

NAME = "configuration"
SECRETS_NAME = "secrets"
STATE_NAME = "state directory"


class ConfigurationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says now. `config` None: it can't be used, because of `error`.

    `permitted` False: it may be well, but this user may not read it.
    """

    file: Path
    config: Config | None = None
    error: str = ""
    hint: str = ""
    permitted: bool = True


class SecretFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A file that holds a secret. `error`: why it can't be read."""

    key: str
    path: Path
    error: str = ""
    open_to_all: bool = False


class StateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The state directory."""

    path: Path
    exists: bool = True
    writable: bool = True
    mode: int = 0o700


def read_configuration(file: Path, environ: Mapping[str, str] | None = None) -> ConfigurationFacts:
    """Read a configuration file as a start would."""
    try:
        return ConfigurationFacts(file=file, config=configuration.load(file, environ=environ))
    except ConfigError as error:
        return ConfigurationFacts(
            file=file,
            error=error.message,
            hint=error.hint,
            permitted=not isinstance(error.__cause__, PermissionError),
        )


def judge_configuration(facts: ConfigurationFacts, in_force: Config | None) -> CheckView:
    """Judge the file, compared with the configuration in force where a daemon runs."""
    if facts.config is None and in_force is None and not facts.permitted:
        return verdict.unknown(NAME, facts.error, "look as root: sudo backupctl doctor")
    if facts.config is None:
        why = " (the daemon goes on with what it read before; the next start fails)" if in_force else ""
        cure = facts.hint or f"correct it, then: systemctl {'reload' if in_force else 'start'} backupd"
        return verdict.critical(NAME, facts.error + why, cure)
    if in_force is not None and facts.config != in_force:
        changed = ", ".join(
            f"[{section}] {key}"
            for section in SECTIONS
            for key in getattr(facts.config, section).__struct_fields__
            if getattr(getattr(facts.config, section), key) != getattr(getattr(in_force, section), key)
        )
        text = f"{facts.file} was changed and not read again: {changed}"
        return verdict.warning(NAME, text, "systemctl reload backupd")
    force = "is in force" if in_force is not None else "can be used"
    return verdict.ok(NAME, f"{facts.file} {force}")


def look_at_secrets(config: Config) -> list[SecretFacts]:
    """Look whether each file with a secret can be read, and by whom."""
    found = []
    for key, path in _secret_files(config).items():
        error = ""
        try:
            if key.endswith("key_file"):
                os.close(os.open(path, os.O_RDONLY))
            else:
                read_secret(path)
        except ConfigError as refused:
            error = refused.message
        except OSError as refused:
            error = f"{path} can't be read: {refused.strerror}"
        found.append(SecretFacts(key=key, path=path, error=error, open_to_all=everybody_may_read(path)))
    return found


def judge_secrets(facts: list[SecretFacts], *, user: str) -> list[CheckView]:
    """Judge the files with secrets for a user."""
    found = []
    for secret in facts:
        if secret.error:
            cure = f"chown {user} {secret.path}; chmod 0400 {secret.path}; the first line is the secret"
            found.append(verdict.critical(SECRETS_NAME, f"{secret.key}: {secret.error}", cure))
        elif secret.open_to_all:
            text = f"{secret.key}: {secret.path} may be read by everybody"
            found.append(verdict.warning(SECRETS_NAME, text, f"chmod o-rwx {secret.path}"))
    if not found:
        text = (
            f"{len(facts)} files, for their owner alone"
            if facts
            else "the configuration names no file of one"
        )
        found.append(verdict.ok(SECRETS_NAME, text))
    return found


def look_at_state(path: Path) -> StateFacts:
    """Look at the state directory."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return StateFacts(path=path, exists=False)
    return StateFacts(path=path, writable=os.access(path, os.R_OK | os.W_OK | os.X_OK), mode=mode)


def judge_state(facts: StateFacts, *, user: str) -> CheckView:
    """Judge the state directory for a user."""
    path = facts.path
    if not facts.exists:
        text = f"{path} is not there: the server's id would not be kept"
        return verdict.critical(STATE_NAME, text, f"install -d -m 0700 -o {user} {path}")
    if not facts.writable:
        return verdict.critical(STATE_NAME, f"{user} can't write {path}", f"chown -R {user}: {path}")
    if facts.mode & 0o077:
        text = f"others than its owner may read {path} (mode {facts.mode:04o})"
        return verdict.warning(STATE_NAME, text, f"chmod 0700 {path}")
    return verdict.ok(STATE_NAME, f"{path} is writable, for its owner alone")


def known_server_id(config: Config) -> str:
    """Return the server's id as configured or kept, empty where none was made yet."""
    if config.server.id is not None:
        return config.server.id
    try:
        return (config.server.state_directory / "server_id").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _secret_files(config: Config) -> dict[str, Path]:
    files = {
        "broker.password_file": configuration.password_path(config.broker),
        "broker.key_file": config.broker.key_file,
        "notifications.smtp_password_file": config.notifications.smtp_password_file,
        "notifications.webhook_token_file": config.notifications.webhook_token_file,
    }
    return {key: path for key, path in files.items() if path is not None}
