"""Wiring: makes the parts of a daemon from its configuration.

The only place that names a concrete AppServer or volume.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from backupd import buckets
from backupd import config as configuration
from backupd.appservers.asides import clear_asides
from backupd.appservers.base import AppServer
from backupd.appservers.directory import DirectoryServer
from backupd.attribute import Level, Value
from backupd.attributes import Scopes, Settings, unrevealing
from backupd.clock import Clock
from backupd.config import Config
from backupd.config_sections import AppServerKind
from backupd.errors import BackupPathRefused, ConfigError, UsageError
from backupd.jobs.archive.configuration import ATTRIBUTES_MEMBER, CONFIGURATION_MEMBER, ConfigurationDump
from backupd.jobs.restore.drill import RestoreDrill
from backupd.jobs.restore.export import MakeTarget, Target
from backupd.store import ownership
from backupd.store.layout import Layout
from backupd.store.ledger import SetAttribute
from backupd.store.ledger_copy import write_copy
from backupd.store.store import Store
from daemon.broker_address import BrokerAddress

DEFAULT_THRESHOLD_SHARE = 20
"""Where no threshold was set, at most one part in so many of the file system is kept free."""


def make_appserver(config: Config, clock: Clock) -> DirectoryServer:
    """Return the AppServer to back up. Raises `ConfigError` where there is nothing to look at."""
    match config.appserver.kind:
        case AppServerKind.DIRECTORY:
            state = config.server.state_directory
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            return DirectoryServer(
                config.appserver.root, identity_path=state / "identities.sqlite", clock=clock
            )


def export_target_maker(clock: Clock) -> MakeTarget:
    """Return what makes the target of an export: files in the layout of the AppServer `directory`."""

    def make_target(root: Path, kept: Path) -> Target:
        clear_asides(root)
        server = DirectoryServer(root, identity_path=kept / "identities.sqlite", clock=clock)
        return Target(appserver=server, close=server.close)

    return make_target


def make_drill(config: Config, store: Store, clock: Clock) -> RestoreDrill:
    """Return the restore drill; its scratch servers are files, as the targets of exports are."""
    return RestoreDrill(
        store,
        clock=clock,
        make_target=export_target_maker(clock),
        parent=config.server.state_directory / "drills",
        forbidden=(config.appserver.root,),
    )


def make_address(config: Config) -> BrokerAddress | None:
    """Return the broker's address, None for the embedded one. Raises `ConfigError`."""
    broker = config.broker
    if broker.is_embedded:
        return None
    password_file = configuration.password_path(broker)
    secret = None
    if password_file is None:
        password = configuration.broker_password(broker)
        secret = password.revealed if password is not None else None
    try:
        address = BrokerAddress.parse(
            broker.url,
            username=broker.username,
            password_file=password_file,
            ca_file=broker.ca_file,
            certificate_file=broker.certificate_file,
            key_file=broker.key_file,
        )
    except ConfigError as error:
        raise ConfigError(f"{config.file}: [broker] {error.message}", hint=error.hint) from error
    return msgspec.structs.replace(address, secret=secret)


def make_store(config: Config, server_id: str, clock: Clock) -> Store:
    """Open the Backup Path; takes long where the index is rebuilt. Raises `BackupPathRefused`.

    An empty directory that held a backup of ours is refused: its file system is not mounted, most likely,
    and a new backup below the mount point would look as if all were well. A directory that is gone was
    removed by somebody, and is made anew.
    """
    path = configuration.backup_path(config.server)
    root = path.resolve()
    if not root.exists():
        configuration.note_backup(config.server, root, there=False)
    elif str(root) in configuration.known_backups(config.server) and not Layout(root).map_files():
        known = config.server.state_directory / configuration.KNOWN_BACKUPS
        raise BackupPathRefused(
            f"the backup that was in {path} is gone: is its file system mounted?",
            hint=f"mount it and start again; if it is lost for good, take the path out of {known}",
            path=str(path),
        )
    store = Store.open(path, server_id=server_id, server_name=config.server.name, clock=clock)
    configuration.note_backup(config.server, root, there=True)
    return store


def make_settings(
    config: Config,
    store: Store,
    server_id: str,
    elsewhere: Mapping[str, Callable[[Value | None], None]] | None = None,
) -> Settings:
    """Return the attributes in force; the Backup Path is kept beside the store, which it names.

    `elsewhere` keeps further attributes in a way of its own.
    """

    def keep_backup_path(value: object) -> None:
        refuse_while_external(settings, server_id)
        chosen = Path(str(value)) if value is not None else config.server.backup_path
        check_backup_path(chosen, store.layout.root, server_id)
        configuration.choose_backup_path(config.server, chosen if value is not None else None)

    given = {(Level.SERVER, server_id, "ZxBackup_DestPath"): str(store.layout.root)}
    settings = Settings(
        store.ledger,
        given=given,
        elsewhere={"ZxBackup_DestPath": keep_backup_path, **(elsewhere or {})},
    )
    return settings


def refuse_while_external(settings: Settings, server_id: str) -> None:
    """Raise `UsageError` where an external volume is in use: the Backup Path then is not changed."""
    if settings.get("backupArchivingStore", Scopes(server=server_id)).value:
        raise UsageError(
            "the Backup Path can't be changed while an external volume is in use: contents outside belong to "
            "the metadata on this path",
            hint="migrateBackupVolume Default brings them home first; setBackupVolume Default start leaves "
            "them where they are",
        )


def check_backup_path(chosen: Path, current: Path, server_id: str) -> None:
    """Make sure that a directory can become the Backup Path, before the daemon leaves the one it has.

    Raises `BackupPathRefused`, `ConfigError`.
    """
    wanted = chosen.resolve()
    if wanted == current:
        return
    if wanted.is_relative_to(current) or current.is_relative_to(wanted):
        raise ConfigError(
            f"{chosen} and the Backup Path {current} lie in each other", hint="choose one apart"
        )
    if not wanted.parent.is_dir():
        raise ConfigError(
            f"{wanted.parent} is no directory, so {chosen} is not made in it",
            hint="is it written right, is its file system mounted? Else make it first",
        )
    try:
        wanted.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{chosen} can't be made: {error.strerror}", hint="make it, and give it to the service's user"
        ) from error
    ownership.check(Layout(wanted), server_id, writable=True)


def carry_attributes(store: Store, carried: Sequence[SetAttribute]) -> None:
    """Give a new Backup Path the attributes of the one before; one that has its own keeps them."""
    if carried and not store.ledger.attributes():
        with store.ledger.batch():
            for row in carried:
                store.ledger.set_attribute(row.level, row.scope, row.name, row.value)


def space_threshold_bytes(settings: Settings, server_id: str, total_bytes: int) -> int:
    """Return the free space to keep. The default is not more than a small share of the file system."""
    resolved = settings.get("ZxBackup_SpaceThreshold", Scopes(server=server_id))
    threshold = int(str(resolved.value)) << 20
    if resolved.level is None:
        return min(threshold, total_bytes // DEFAULT_THRESHOLD_SHARE)
    return threshold


def shown_setting(name: str, value: object) -> object:
    """Return a stored attribute's value as a dump may hold it: without secrets."""
    return buckets.masked(value) if name == buckets.ATTRIBUTE else value


def configuration_dump(
    config: Config, settings: Settings, store: Store, appserver: AppServer, server_id: str
) -> ConfigurationDump:
    """Return the configuration dump: of the AppServer, and this daemon's file, attributes and ledger."""

    def sources() -> list[tuple[str, Path | bytes]]:
        entries: list[tuple[str, Path | bytes]] = [*appserver.configuration()]
        attributes = [
            {
                "level": scopes.level.value,
                "scope": scopes.server,
                "attribute": row.attribute.name,
                "value": unrevealing(row.attribute, row.value),
                "isInherited": row.is_inherited,
            }
            for scopes in (Scopes(), Scopes(server=server_id))
            for row in settings.dump(scopes)
        ]
        encoded = msgspec.json.format(msgspec.json.encode(attributes), indent=2)
        entries.append((ATTRIBUTES_MEMBER, encoded))
        if config.file.is_file():
            entries.append((CONFIGURATION_MEMBER, config.file.read_bytes()))
        with tempfile.TemporaryDirectory(prefix="backupd-dump-") as place:
            copy = Path(place) / "state.sqlite"
            write_copy(store.ledger, copy, shown_setting)
            entries.append(("backupd/state.sqlite", copy.read_bytes()))
        return entries

    return ConfigurationDump(store.layout, sources)
