"""`backupctl doctor` where no daemon answers: what a console can find out by itself, and why nobody answers.

The checks are those of `backupd.jobs.doctor`, made as the user who asks, which is said: root can read what
the service's user may not. Nothing is changed; a probe file is written only where the Backup Path is ours.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from backupd import config as configuration
from backupd.config import Config
from backupd.control import DoctorReply
from backupd.errors import BackupdError, ConfigError
from backupd.jobs.doctor import disk, machine, mail, place, settings, verdict
from backupd.views import CheckView

SERVICE_USER = "backupd"
ANSWER_SECONDS = 30.0
"""A daemon that is well answers the doctor within 15 seconds."""
START = "systemctl start backupd; journalctl -u backupd -n 50 says why it ended"


class ServiceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Why nobody answers: `error` and `hint` as the console met them, what systemd says of the unit.

    `permitted` False: there may be a daemon, but not for this user. `holder` is who holds the Backup Path.
    """

    error: str
    hint: str = ""
    cause: str = ""
    permitted: bool = True
    unit: dict[str, str] = {}
    holder: int | None = None


def socket_of(config_file: str) -> str | None:
    """Return the control socket that a configuration file names, None where it can't be used."""
    try:
        return str(configuration.load(Path(config_file)).control.socket)
    except ConfigError:
        return None


def diagnose(socket_error: BackupdError, config_file: str | None, environ: Mapping[str, str]) -> DoctorReply:
    """Return what can be found out without the daemon, after asking it failed with `socket_error`."""
    file = find_configuration(config_file, environ)
    found = settings.read_configuration(file, environ)
    holder = _holder(found.config) if found.config is not None else None
    cause = socket_error.__cause__
    service = ServiceFacts(
        error=socket_error.message,
        hint=socket_error.hint,
        cause=getattr(cause, "strerror", None) or "",
        permitted=not isinstance(cause, PermissionError),
        unit=machine.unit_properties(),
        holder=holder,
    )
    user, service_user = place.user_name(os.geteuid()), _service_user(environ, file)
    checks = [judge_service(service), judge_user(user, service_user)]
    checks.append(settings.judge_configuration(found, None))
    if found.config is not None and os.geteuid() != 0 and user != service_user:
        text = f"{user} may not look there: it belongs to {service_user}"
        checks.append(verdict.unknown(place.NAME, text, "look as root: sudo backupctl doctor"))
    elif found.config is not None:
        checks += _look_around(found.config, user, service_user)
    clock = machine.look_at_clock(datetime.now(UTC), None, environ)
    checks += machine.judge_clock(clock)
    return verdict.report(checks)


def find_configuration(given: str | None, environ: Mapping[str, str]) -> Path:
    """Return the file to check: as given, else the user's own where there is one, else the service's."""
    if given is not None:
        return Path(os.path.abspath(given))  # noqa: PTH100 - no link is resolved, as the daemon does not
    own = configuration.default_file(environ, service=configuration.runs_as_service(environ, os.geteuid()))
    return own if own.exists() else configuration.SERVICE_FILE


def judge_service(facts: ServiceFacts) -> CheckView:
    """Say whether a daemon runs, and why it can't be reached."""
    name = "daemon"
    if not facts.permitted:
        return verdict.unknown(name, f"it may run, but {facts.error}", facts.hint)
    unit = facts.unit
    state = unit.get("ActiveState", "")
    systemd = f"; systemd says: {state} ({unit.get('SubState', '')})" if state else ""
    if unit.get("ExecMainStatus", "0") not in ("", "0"):
        systemd += f", exit status {unit['ExecMainStatus']}, {unit.get('Result', '')}"
    why = f"{facts.error}{f' ({facts.cause})' if facts.cause else ''}{systemd}"
    if facts.holder is not None:
        text = f"a daemon runs as process {facts.holder}, but {why}"
        cure = "does it still start (it rebuilds the index)? Has it another socket? Name it: --socket PATH"
        return verdict.critical(name, text, cure)
    if "gave no answer" in facts.error:
        return verdict.critical(
            name, f"the daemon hangs: {why}", "systemctl restart backupd; then see its log"
        )
    if "something else" in facts.error or "of this version" in facts.error:
        return verdict.critical(name, why, facts.hint or "name the right socket: --socket PATH")
    return verdict.critical(name, f"the daemon does not run: NO BACKUP IS BEING MADE; {why}", START)


def judge_user(user: str, service_user: str) -> CheckView:
    """Say as whom the checks are made."""
    if user == service_user:
        return verdict.ok("checked as", user)
    text = f"{user}; the service runs as {service_user}, who may be allowed less"
    return verdict.ok("checked as", f"{text}: sudo -u {service_user} backupctl doctor tells")


def _look_around(config: Config, user: str, service_user: str) -> list[CheckView]:
    """Make the checks that need a configuration, each of which may fail by itself."""
    server_id = settings.known_server_id(config)
    mail_root = config.appserver.root
    checks = list(settings.judge_secrets(settings.look_at_secrets(config), user=service_user))
    checks.append(settings.judge_state(settings.look_at_state(config.server.state_directory), user=user))
    root: Path | None = None

    def backup_path() -> list[CheckView]:
        nonlocal root
        facts = place.look_at_path(configuration.backup_path(config.server), server_id, mail_root)
        root = facts.path if facts.exists and not facts.refused else None
        found = place.judge_path(facts, pid=None)
        return [*found, *_judge_owner(facts, service_user)]

    def of_the_disk() -> list[CheckView]:
        if root is None:
            return []
        is_ours = os.geteuid() in (0, root.stat().st_uid)
        return [
            *disk.judge_disk(disk.measure_disk(root, write=is_ours)),
            disk.judge_space(disk.measure_space(root)),
        ]

    def of_the_mail() -> list[CheckView]:
        return mail.judge_mail(mail.look_at_mail(mail_root), watch=config.appserver.watch, user=user)

    checks += _guarded(place.NAME, backup_path)
    checks += _guarded(disk.NAME, of_the_disk)
    checks += _guarded(mail.NAME, of_the_mail)
    return checks


def _guarded(name: str, look: Callable[[], list[CheckView]]) -> list[CheckView]:
    try:
        return look()
    except (BackupdError, OSError) as error:
        return [verdict.unknown(name, f"it could not be checked: {error}")]


def _judge_owner(facts: place.PathFacts, service_user: str) -> list[CheckView]:
    """Say where the service's user could not write an existing Backup Path, as its mode tells."""
    if not facts.exists or facts.refused:
        return []
    try:
        who = pwd.getpwnam(service_user)
    except KeyError:
        return []
    groups = [who.pw_gid, *(group.gr_gid for group in grp.getgrall() if service_user in group.gr_mem)]
    own = facts.path.stat()
    owner = (own.st_uid, own.st_gid)
    if place.permits(own.st_mode, owner, (who.pw_uid, groups), os.R_OK | os.W_OK | os.X_OK):
        return []
    text = f"{facts.path} belongs to {facts.owner}: the service's user {service_user} can't write there"
    cure = f"chown -R {service_user}: {facts.path}"
    return [verdict.critical(place.NAME, text, cure)]


def _holder(config: Config) -> int | None:
    try:
        return place.lock_holder(configuration.backup_path(config.server) / ".lock")[0]
    except (ConfigError, OSError):
        return None


def _service_user(environ: Mapping[str, str], file: Path) -> str:
    """Return as whom the daemon runs here: the service's user where there is one, else who asks."""
    user = place.user_name(os.geteuid())
    is_service = configuration.runs_as_service(environ, os.geteuid())
    if not is_service and file != configuration.SERVICE_FILE:
        return user
    try:
        return pwd.getpwnam(SERVICE_USER).pw_name
    except KeyError:
        return user
