"""Standing: how the daemon stands at this moment, gathered from its parts in a few milliseconds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from backupd import __version__
from backupd.attributes import Scopes, Settings, schedule_of
from backupd.clock import Clock
from backupd.control import StatusReply
from backupd.items import Kind
from backupd.keeping_views import BloblessView, CoherencyView, SuspensionView
from backupd.operations import Operation, OperationStatus
from backupd.store.ledger_tables import Condemned
from backupd.store.protections import Protections
from backupd.store.store import Store
from backupd.views import BrokerView, CountView, GapView, OperationView, RecorderView, ScannerView, SpaceView
from backupd.volume_views import VolumeView
from daemon import coherency, condition, keeping_condition, views
from daemon.doubts import Doubts
from daemon.enrolling import Enrolling
from daemon.failures import SCAN_TYPES, last_of_each
from daemon.freshness import Doubt, Freshness, base_moment, freshness
from daemon.operations_queue import OperationsQueue
from daemon.protecting import suspension_views
from daemon.publisher import PublisherStatus
from daemon.realtime import RealtimeScanner
from daemon.recording import Recording, RecordingStatus
from daemon.scheduler import Job, Scheduler
from daemon.services import Services
from daemon.subscription import SubscriptionStatus

GAPS_SHOWN_MAX = 20
DRILL_TYPE = "doRestoreDrill"


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """The status with what it is made from, and how fresh the backup of each account is."""

    status: StatusReply
    facts: condition.Facts
    freshness: Freshness
    recording: RecordingStatus
    subscription: SubscriptionStatus | None
    publisher: PublisherStatus | None
    operations: Sequence[Operation]
    jobs: Sequence[Job]
    gaps: Sequence[GapView]
    waiting_since: datetime | None
    states: int
    accounts_deleted: int
    damaged: int
    last_purge: datetime | None
    condemned: int


class Standing:
    """Knows every part, changes none."""

    def __init__(
        self,
        *,
        store: Store,
        server_id: str,
        server_name: str,
        broker_url: str,
        settings: Settings,
        queue: OperationsQueue,
        recording: Recording,
        realtime: RealtimeScanner,
        scheduler: Scheduler,
        services: Services,
        clock: Clock,
        enrolling: Enrolling,
        unsent: Callable[[], str] = str,
        metrics_trouble: Callable[[], str] = str,
        config_trouble: Callable[[], str] = str,
        volume: Callable[[], VolumeView | None] = lambda: None,
        blobless: Callable[[], BloblessView] = BloblessView,
        clock_doubt: Callable[[], str] = str,
    ) -> None:
        """Make it; `unsent` says in words what admins could not be told."""
        self._store = store
        self._doubts = Doubts(store, clock)
        self._metrics_trouble = metrics_trouble
        self._config_trouble = config_trouble
        self._blobless = blobless
        self._clock_doubt = clock_doubt
        self._server_id = server_id
        self._server_name = server_name
        self._broker_url = broker_url
        self._settings = settings
        self._queue = queue
        self._recording = recording
        self._realtime = realtime
        self._scheduler = scheduler
        self._services = services
        self._clock = clock
        self._enrolling = enrolling
        self._unsent = unsent
        self._volume = volume
        self._started = clock.now()
        self._stored = _Stored()

    @property
    def clock_doubt(self) -> str:
        """Return why the clock is not believed, or nothing."""
        return self._clock_doubt()

    async def status(self) -> StatusReply:
        """Return the state of everything."""
        return (await self.survey()).status

    async def survey(self) -> Survey:
        """Return the state of everything, and how fresh each account is."""
        stored = await asyncio.to_thread(self._read_store)
        now = self._clock.now()
        operations = [views.operation_view(one) for one in self._queue.operations()]
        facts = self._facts(now, stored, operations)
        fresh = await asyncio.to_thread(_freshness, facts, stored)
        subscription, publisher = self._realtime.subscription, self._realtime.publisher
        return Survey(
            status=self._reply(facts, stored, fresh.worst, operations),
            facts=facts,
            freshness=fresh,
            recording=self._recording.status(),
            subscription=None if subscription is None else subscription.status,
            publisher=None if publisher is None else publisher.status,
            operations=self._queue.operations(),
            jobs=self._scheduler.jobs,
            gaps=stored.gaps,
            waiting_since=stored.waiting_since,
            states=stored.states,
            accounts_deleted=stored.accounts_deleted,
            damaged=len(facts.damaged),
            last_purge=stored.last_purge,
            condemned=stored.condemned,
        )

    def _facts(self, now: datetime, stored: _Stored, operations: list[OperationView]) -> condition.Facts:
        recorder = self._recorder()
        broker, intake_paused = self._broker()
        realtime_active = broker.connected and not intake_paused and not self._unwatched(now)
        schedules = tuple(views.schedule_view(job) for job in self._scheduler.jobs)
        return condition.Facts(
            now=now,
            realtime_enabled=self._realtime.enabled,
            realtime_active=realtime_active,
            realtime_trouble=self._realtime.trouble or self._unwatched(now),
            smartscan_enabled=self._smartscan_enabled(),
            last_scan=stored.last_scan,
            scanning=any(one.type in SCAN_TYPES and not one.has_ended for one in operations),
            started=self._started,
            broker=broker,
            intake_paused=intake_paused,
            recorder=recorder,
            waiting_photographs=stored.waiting,
            gaps=stored.gaps,
            last_operations=last_of_each(operations, now),
            damaged=self._store.damaged,
            space=stored.space,
            backup_path_trouble=stored.backup_path_trouble,
            services_stopped=self._services.stopped,
            schedules=schedules,
            unsent=self._unsent(),
            metrics_trouble=self._metrics_trouble(),
            config_trouble=self._config_trouble(),
            clock_doubt=self._clock_doubt(),
            last_purge=stored.last_purge,
            backup_path=str(self._store.layout.root),
            last_proven_restore=_last_success(operations, DRILL_TYPE),
            volume=self._volume(),
            suspensions=stored.suspensions,
            coherency=stored.coherency,
            blobless=self._blobless(),
            accounts=stored.accounts,
            not_enabled=stored.not_enabled,
        )

    def _reply(
        self,
        facts: condition.Facts,
        stored: _Stored,
        recoverable_until: datetime | None,
        operations: list[OperationView],
    ) -> StatusReply:
        return StatusReply(
            server_id=self._server_id,
            server_name=self._server_name,
            backup_path=str(self._store.layout.root),
            daemon_version=__version__,
            pid=os.getpid(),
            started=self._started,
            now=facts.now,
            recoverable_until=recoverable_until,
            problems=tuple(condition.problems(facts)),
            realtime=ScannerView(
                enabled=facts.realtime_enabled, active=facts.realtime_active, note=self._realtime.trouble
            ),
            smartscan=ScannerView(
                enabled=facts.smartscan_enabled, active=facts.scanning, last_success=stored.last_scan
            ),
            broker=facts.broker,
            recorder=facts.recorder,
            waiting_photographs=stored.waiting,
            gaps=tuple(stored.gaps[:GAPS_SHOWN_MAX]),
            gaps_total=len(stored.gaps),
            operations=tuple(one for one in operations if not one.has_ended),
            schedules=tuple(facts.schedules),
            accounts=stored.accounts,
            counts=stored.counts,
            space=stored.space,
            last_proven_restore=facts.last_proven_restore,
            volume=facts.volume,
            last_purge=stored.last_purge,
            condemned_blobs=stored.condemned,
            legal_holds=stored.legal_holds,
            all_held=stored.all_held,
            retention_suspended=len(stored.suspensions),
            accounts_not_enabled=stored.not_enabled,
            coherency=facts.coherency,
            blobless=facts.blobless,
        )

    def _read_store(self) -> _Stored:
        """Return what the store says; without the Backup Path what it said last, and nothing of its space."""
        trouble = _backup_path_trouble(self._store)
        if trouble:
            return msgspec.structs.replace(self._stored, backup_path_trouble=trouble, space=SpaceView())
        self._stored = self._read_whole_store()
        return self._stored

    def _read_whole_store(self) -> _Stored:
        store = self._store
        info = views.backup_info(store)
        open_gaps, waiting = store.ledger.gaps(), store.ledger.waiting_count()
        gaps = [
            GapView(
                id=gap.id,
                account=gap.account,
                account_name=self._name_of(gap.account) if place < GAPS_SHOWN_MAX else "",
                reason=gap.reason,
                detail=gap.detail,
                opened=gap.opened,
            )
            for place, gap in enumerate(open_gaps)
        ]
        last_scan_began = store.statistics.backup().last_scan_started
        protected = Protections(store.ledger).now_in_force()
        doubts = self._doubts.read(open_gaps, waiting, last_scan_began)
        return _Stored(
            gaps=gaps,
            waiting=waiting,
            waiting_since=min(self._doubts.waiting(waiting).values(), default=None),
            states=store.index.counts().states,
            accounts_deleted=info.accounts_deleted,
            doubts=[one for one in doubts if one.account is None or self._enrolling.is_enabled(one.account)],
            legal_holds=len(protected.holds),
            all_held=protected.everyone is not None,
            suspensions=suspension_views(
                store, list(protected.suspensions.values()), named_max=keeping_condition.SUSPENSIONS_MAX
            ),
            not_enabled=self._not_enabled(),
            last_scan=info.last_scan,
            last_scan_began=last_scan_began,
            last_purge=store.statistics.backup().last_purge_ended,
            condemned=Condemned(store.ledger).count(),
            accounts=info.accounts,
            counts=info.counts,
            coherency=coherency.view(store),
            space=msgspec.structs.replace(info.space, threshold_bytes=store.space_threshold_bytes),
        )

    def _name_of(self, account: str) -> str:
        known = self._store.index.find_account(account) if account else None
        return "" if known is None else str(known.metadata.get("name", ""))

    def _not_enabled(self) -> int:
        """Return how many of the accounts that there are now are not backed up."""
        known = (self._store.index.item(one, one, Kind.ACCOUNT) for one in self._enrolling.left_out)
        return sum(1 for one in known if one is not None and not one.deleted)

    def _smartscan_enabled(self) -> bool:
        scopes = Scopes(server=self._server_id)
        return schedule_of(self._settings.get("backupSmartScanScheduler", scopes).value).cron_enabled

    def _recorder(self) -> RecorderView:
        status = self._recording.status()
        return RecorderView(
            journaled=status.journaled,
            recorded=status.recorded,
            lag_entries=max(0, status.journaled - status.recorded),
            lag_seconds=status.lag_seconds,
            paused=status.paused,
        )

    def _unwatched(self, now: datetime) -> str:
        """Return why the AppServer is not watched though it should be; empty where it is, or will be soon."""
        publisher = self._realtime.publisher
        if publisher is None or publisher.status.watching or now - self._started < condition.STARTING:
            return ""
        return f"changes of the AppServer are not seen: {publisher.status.last_error or 'its watch begins'}"

    def _broker(self) -> tuple[BrokerView, str]:
        subscription = self._realtime.subscription
        if subscription is None:
            return BrokerView(url=self._broker_url, error=self._realtime.trouble), ""
        status = subscription.status
        view = BrokerView(
            url=self._broker_url,
            connected=status.connected,
            since=status.since,
            error=status.last_error,
            received=status.received,
            refused=sum(status.refused.values()),
            reconnects=status.attempts,
        )
        return view, status.paused


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    gaps: list[GapView] = []
    waiting: int = 0
    waiting_since: datetime | None = None
    states: int = 0
    accounts_deleted: int = 0
    doubts: list[Doubt] = []
    last_scan: datetime | None = None
    last_scan_began: datetime | None = None
    last_purge: datetime | None = None
    condemned: int = 0
    accounts: int = 0
    counts: tuple[CountView, ...] = ()
    space: SpaceView = SpaceView()
    backup_path_trouble: str = ""
    legal_holds: int = 0
    all_held: bool = False
    suspensions: Sequence[SuspensionView] = ()
    not_enabled: int = 0
    coherency: CoherencyView = CoherencyView()


def _backup_path_trouble(store: Store) -> str:
    """Say that the backup is not at its place any more; its map file is what shows that it is."""
    try:
        store.layout.map_file(store.identity.server).stat()
    except FileNotFoundError:
        return f"the backup is gone from {store.layout.root}"
    except OSError as error:
        return f"the Backup Path {store.layout.root} can't be read: {error.strerror}"
    return ""


def _last_success(operations: list[OperationView], type_: str) -> datetime | None:
    """Return when an operation of a type last succeeded; the queue keeps the last one of each type."""
    ends = (one.ended for one in operations if one.type == type_ and one.status is OperationStatus.SUCCESSFUL)
    return max((ended for ended in ends if ended is not None), default=None)


def _freshness(facts: condition.Facts, stored: _Stored) -> Freshness:
    """Return up to when every account's changes are known to be recorded."""
    base = base_moment(
        now=facts.now,
        last_scan_began=stored.last_scan_began,
        is_live=facts.realtime_active,
        lag_seconds=facts.recorder.lag_seconds,
    )
    followed = max(0, stored.accounts - stored.not_enabled)
    return freshness(now=facts.now, base=base, accounts=followed, doubts=stored.doubts)
