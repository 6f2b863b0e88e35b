"""Standing: how the daemon stands at this moment, gathered from its parts in a few milliseconds."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta

import msgspec

from backupd import __version__
from backupd.attributes import Scopes, Settings, schedule_of
from backupd.clock import Clock
from backupd.control import StatusReply
from backupd.store.store import Store
from backupd.views import (
    BrokerView,
    CountView,
    GapView,
    OperationView,
    RecorderView,
    ScannerView,
    ScheduleView,
    SpaceView,
)
from daemon import condition, views
from daemon.operations_queue import OperationsQueue
from daemon.realtime import RealtimeScanner
from daemon.recording import Recording
from daemon.scheduler import Scheduler

GAPS_SHOWN_MAX = 20
SCAN_TYPES = frozenset({"doSmartScan", "doAccountScan"})


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
        clock: Clock,
    ) -> None:
        self._store = store
        self._server_id = server_id
        self._server_name = server_name
        self._broker_url = broker_url
        self._settings = settings
        self._queue = queue
        self._recording = recording
        self._realtime = realtime
        self._scheduler = scheduler
        self._clock = clock
        self._started = clock.now()

    async def status(self) -> StatusReply:
        """Return the state of everything."""
        return (await self.facts_and_status())[1]

    async def facts_and_status(self) -> tuple[condition.Facts, StatusReply]:
        """Return the state of everything, and the facts by which problems are judged."""
        stored = await asyncio.to_thread(self._read_store)
        now = self._clock.now()
        operations = [views.operation_view(one) for one in self._queue.operations()]
        recorder = self._recorder()
        broker, intake_paused = self._broker()
        realtime_active = broker.connected and not intake_paused and not self._unwatched(now)
        gaps = stored.gaps
        facts = condition.Facts(
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
            gaps=gaps,
            last_operations=_last_of_each_type(operations),
            damaged=self._store.damaged,
            space=stored.space,
        )
        return facts, StatusReply(
            server_id=self._server_id,
            server_name=self._server_name,
            backup_path=str(self._store.layout.root),
            daemon_version=__version__,
            pid=os.getpid(),
            started=self._started,
            now=now,
            recoverable_until=_recoverable_until(facts, stored),
            problems=tuple(condition.problems(facts)),
            realtime=ScannerView(
                enabled=facts.realtime_enabled, active=realtime_active, note=self._realtime.trouble
            ),
            smartscan=ScannerView(
                enabled=facts.smartscan_enabled, active=facts.scanning, last_success=stored.last_scan
            ),
            broker=broker,
            recorder=recorder,
            waiting_photographs=stored.waiting,
            gaps=tuple(gaps[:GAPS_SHOWN_MAX]),
            gaps_total=len(gaps),
            operations=tuple(one for one in operations if not one.has_ended),
            schedules=tuple(
                ScheduleView(
                    job=job.name, pattern=job.pattern, enabled=job.enabled, next=job.next, last=job.last
                )
                for job in self._scheduler.jobs
            ),
            accounts=stored.accounts,
            counts=stored.counts,
            space=stored.space,
        )

    def _read_store(self) -> _Stored:
        store = self._store
        info = views.backup_info(store)
        gaps = [
            GapView(id=gap.id, account=gap.account, reason=gap.reason, detail=gap.detail, opened=gap.opened)
            for gap in store.ledger.gaps()
        ]
        return _Stored(
            gaps=gaps,
            waiting=store.ledger.waiting_count(),
            last_scan=info.last_scan,
            last_scan_began=store.statistics.backup().last_scan_started,
            accounts=info.accounts,
            counts=info.counts,
            space=msgspec.structs.replace(info.space, threshold_bytes=store.space_threshold_bytes),
        )

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
    gaps: list[GapView]
    waiting: int
    last_scan: datetime | None
    last_scan_began: datetime | None
    accounts: int
    counts: tuple[CountView, ...]
    space: SpaceView


def _last_of_each_type(operations: list[OperationView]) -> list[OperationView]:
    """Return the last ended operation of each type: a failure that a later success mended is none."""
    last = {one.type: one for one in operations if one.has_ended}
    return list(last.values())


def _recoverable_until(facts: condition.Facts, stored: _Stored) -> datetime | None:
    """Return up to when every change is known to be recorded; None before the first scan has succeeded.

    The least of: the last scan where there is a gap or no working Realtime Scanner (its beginning, for it
    looks at each account only once), and what the recorder still has to do.
    """
    if stored.last_scan_began is None:
        return None
    limits = [facts.now]
    if stored.gaps:
        limits.append(min(stored.last_scan_began, *(gap.opened for gap in stored.gaps)))
    if facts.recorder.lag_seconds:
        limits.append(facts.now - timedelta(seconds=facts.recorder.lag_seconds))
    if not facts.realtime_active:
        limits.append(stored.last_scan_began)
    return min(limits)
