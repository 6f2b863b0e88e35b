"""The parts of a daemon that answer, over a backup in memory and without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from backupd.attributes import Settings
from backupd.buckets import Bucket
from backupd.config import Config, load
from backupd.control import CommandRequest, Reply
from backupd.operations import Run
from backupd.views import BrokerView, CheckView, Outcome, RecorderView, SpaceView
from daemon.answers import OPERATION_TYPES, Answers, names_of
from daemon.condition import Facts
from daemon.configuring import Configuring
from daemon.doctor import Doctor
from daemon.enrolling import Enrolling
from daemon.guarding import make_guard
from daemon.kept_operations import KeptOperations
from daemon.looking import Looking
from daemon.messages import Message
from daemon.metrics import Metrics
from daemon.operations_queue import OperationsQueue
from daemon.peers import Caller
from daemon.protecting import Protecting
from daemon.quarantine import Quarantine
from daemon.realtime import RealtimeScanner
from daemon.recording import Recording
from daemon.scheduler import Scheduler
from daemon.services import Services
from daemon.standing import Standing
from tests.unit.jobs.worlds import SERVER, BackupWorld

ROOT = Caller(uid=0, gid=0, pid=1, name="root", may_read=True, may_change=True)


class AnsweringWorld(BackupWorld):
    """A backup with everything that answers for it. Nothing runs but what a test runs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path / "backup")
        self.settings = Settings(self.store.ledger)
        self.enrolling = Enrolling(self.store, self.settings, now=self.clock.now)
        self.protecting = self.make_protecting()
        self.queue = OperationsQueue(
            KeptOperations(self.store.ledger),
            dict.fromkeys(OPERATION_TYPES, lambda _operation: _nothing),
            clock=self.clock,
        )
        self.recording = Recording(self.recorder, self.store.journal, clock=self.clock, window=self.window)
        self.realtime = self.make_realtime(path)
        self.scheduler = Scheduler(_started, clock=self.clock)
        self.services = Services(
            realtime=self.realtime,
            scheduler=self.scheduler,
            queue=self.queue,
            realtime_wanted=lambda: True,
        )
        self.standing = Standing(
            store=self.store,
            server_id=SERVER,
            server_name="mail",
            broker_url="embedded",
            settings=self.settings,
            queue=self.queue,
            recording=self.recording,
            realtime=self.realtime,
            scheduler=self.scheduler,
            services=self.services,
            clock=self.clock,
            enrolling=self.enrolling,
        )
        self.doctor = Doctor(
            configured(path),
            server_id=SERVER,
            store=self.store,
            standing=self.standing,
            realtime=self.realtime,
            clock=self.clock,
        )
        self.make_answers()

    def make_answers(self) -> None:
        self.metrics = Metrics(self.standing, self.clock)
        self.configuring = Configuring(
            settings=self.settings,
            store=self.store,
            scheduler=self.scheduler,
            server_id=SERVER,
            server_name="mail",
            names=names_of(SERVER, "mail"),
            queue=self.queue,
            probe=self.probe_bucket,
        )
        self.answers = Answers(
            store=self.store,
            queue=self.queue,
            services=self.services,
            standing=self.standing,
            looking=Looking(self.store, clock=self.clock),
            names=names_of(SERVER, "mail"),
            metrics=self.metrics.text,
            parts=(self.configuring.table(), self.doctor.table(), self.protecting.table()),
        )

    def make_protecting(self) -> Protecting:
        self.told: list[Message] = []
        self.guard = make_guard(self.store, self.settings, SERVER)
        self.behind = timedelta()
        """How far the clock is known to be behind."""
        return Protecting(
            self.store,
            self.guard,
            self.enrolling,
            clock=self.clock,
            believed_now=lambda: self.clock.now() + self.behind,
            server="mail",
            tell=self.told.append,
            look_soon=lambda: None,
        )

    def make_realtime(self, path: Path) -> RealtimeScanner:
        return RealtimeScanner(
            server_id=SERVER,
            clock=self.clock,
            address=None,
            watch=self.server.watch,
            journal=_taken,
            quarantine=Quarantine(path / "quarantine.jsonl"),
            on_gap=_told,
            on_missed=_told,
            on_session=_remembered,
            session_expected=lambda: False,
            event_bytes_max=1 << 20,
            enabled=True,
        )

    def probe_bucket(self, bucket: Bucket) -> Sequence[CheckView]:
        """Answer for a store; a test may put another answer in its place."""
        return (CheckView(name="reach", outcome=Outcome.OK, found=bucket.endpoint),)

    async def ask(self, module: str, command: str, **parameters: Any) -> Reply:
        request = CommandRequest(module=module, command=command, parameters=parameters)
        return await self.answers.execute(request, ROOT)


def configured(path: Path, lines: str = "") -> Config:
    """Return a configuration read from a file in `path`; backup, state and mail lie beside it."""
    for name in ("vmail/example.com/alice/Maildir/cur", "state"):
        (path / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    file = path / "backupd.toml"
    file.write_text(
        f'[server]\nid = "{SERVER}"\nbackup_path = "backup"\nstate_directory = "state"\n'
        f'[appserver]\nroot = "vmail"\n{lines}'
    )
    return load(file)


async def _nothing(_run: Run) -> str:
    return "done"


async def _taken(_payloads: Sequence[bytes]) -> None:
    return


async def _told(_one: str, _other: str) -> None:
    return


async def _remembered() -> None:
    return


async def _started(_job: str) -> None:
    return


def well(now: datetime, **changes: Any) -> Facts:
    """Return the facts of a daemon that is well, with changes."""
    facts = Facts(
        now=now,
        realtime_enabled=True,
        realtime_active=True,
        realtime_trouble="",
        smartscan_enabled=True,
        last_scan=now - timedelta(hours=1),
        scanning=False,
        started=now - timedelta(days=1),
        broker=BrokerView(url="embedded", connected=True),
        intake_paused="",
        recorder=RecorderView(),
        waiting_photographs=0,
        gaps=(),
        last_operations=(),
        damaged=(),
        space=SpaceView(),
    )
    return msgspec.structs.replace(facts, **changes)
