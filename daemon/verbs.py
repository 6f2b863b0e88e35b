"""Verbs: makes the engine's jobs for a lifetime, and the factories by which the queue runs them.

Each kind of operation is made from its parameters alone, so that one can be made again after a restart. A new
verb adds its factories here, and its command to the table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from backupd.appservers.base import AppServer
from backupd.attributes import Scopes, Settings
from backupd.clock import Clock
from backupd.config import Config
from backupd.jobs.archive.customizations import Customizations
from backupd.jobs.guard import Guard
from backupd.jobs.restore import AccountRestore, ContentRestore, Export, ExternalRestore, ItemRestore
from backupd.jobs.smartscan.scan import SmartScan
from backupd.store.store import Store
from daemon import wiring
from daemon.clock_watch import ClockWatch
from daemon.coherency import CoherencyWorks
from daemon.enrolling import Enrolling
from daemon.operations_queue import Factory
from daemon.outward import Outward
from daemon.purging import Purging
from daemon.recording import Recording
from daemon.works import Works


class Ingredients(msgspec.Struct, frozen=True, kw_only=True):
    """What a lifetime has that jobs are made of."""

    config: Config
    clock: Clock
    server_id: str
    store: Store
    appserver: AppServer
    settings: Settings
    recording: Recording
    clock_watch: ClockWatch
    enrolling: Enrolling
    guard: Guard
    wait_until_gathering: Callable[[], Awaitable[object]]
    outward: Outward

    def value(self, attribute: str) -> str:
        """Return an attribute of this server as it is now, as text."""
        return str(self.settings.get(attribute, Scopes(server=self.server_id)).value)

    def is_true(self, attribute: str) -> bool:
        """Tell whether a Boolean attribute of this server is true now."""
        return bool(self.settings.get(attribute, Scopes(server=self.server_id)).value)


def make_factories(of: Ingredients) -> dict[str, Factory]:
    """Return a factory for each type of operation."""
    purging = Purging(
        of.store,
        of.recording,
        of.settings,
        of.clock_watch,
        server_id=of.server_id,
        clock=of.clock,
        guard=of.guard,
        sent_through=of.outward.metadata.sent_through,
        reclaim=of.outward.reclaim,
    )
    return {
        **_scans_and_restores(of).factories(),
        **_checks(of).factories(),
        **purging.factories(),
    }


def _checks(of: Ingredients) -> CoherencyWorks:
    return CoherencyWorks(
        store=of.store,
        appserver=of.appserver,
        recording=of.recording,
        clock=of.clock,
        workers=of.config.scan.workers,
        scheduled=lambda: (
            f"{of.value('backupCoherencyCheckShare')}%",
            int(of.value("backupCoherencyCheckMinutes")) or None,
        ),
    )


def _scans_and_restores(of: Ingredients) -> Works:
    config, clock, store, appserver = of.config, of.clock, of.store, of.appserver
    dump = wiring.configuration_dump(config, of.settings, store, appserver, of.server_id)
    scan = SmartScan(
        store,
        appserver,
        clock=clock,
        recorded_through=of.recording.recorded_through,
        journaled=of.recording.grown,
        workers=config.scan.workers,
        dump_configuration=dump.write_daily,
        enrolment=of.enrolling,
        skips_lists=lambda: of.is_true("backupSkipDLAndDynamicGroups"),
    )
    return Works(
        store=store,
        scan=scan,
        restore=ItemRestore(store, appserver, clock=clock),
        accounts=AccountRestore(store, appserver, clock=clock),
        export=Export(
            store,
            clock=clock,
            make_target=wiring.export_target_maker(clock),
            forbidden=(config.appserver.root, config.server.state_directory),
            enrolment=of.enrolling,
        ),
        drill=wiring.make_drill(config, store, clock),
        external=ExternalRestore(store, appserver, clock=clock),
        contents=ContentRestore(store, appserver, clock=clock),
        dump=dump,
        customizations=Customizations(
            store.layout,
            config.customizations.paths,
            file_bytes_max=config.customizations.file_bytes_max,
        ),
        archives_customizations=lambda: of.is_true("ZxBackup_BackupCustomizations"),
        clock=clock,
        wait_until_gathering=of.wait_until_gathering,
        metadata=of.outward.metadata,
        open_archive=of.outward.open_archive,
        archives_metadata=lambda: of.is_true("scheduledMetadataArchivingEnabled"),
    )
