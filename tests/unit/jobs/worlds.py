"""A backup of an AppServer in memory: store, recorder and scan, without a daemon around them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backupd.appservers.base import Account
from backupd.appservers.memory import MemoryServer
from backupd.coalescing import WINDOW
from backupd.enrolment import Enrolment
from backupd.events import Change, encode_change
from backupd.items import ItemKey, Kind, digest_of
from backupd.jobs.archive.configuration import ConfigurationDump
from backupd.jobs.record import Recorder
from backupd.jobs.smartscan.scan import SmartScan
from backupd.jobs.smartscan.tally import ScanOptions
from backupd.operations import Run
from backupd.states import ChangeType, Origin, State
from backupd.store.store import Store
from tests.world.clocks import FakeClock

ALICE = "alice"
SERVER = "11111111-2222-4333-8444-555555555555"
RIPE = 1 << 60
BODY = b"Subject: a body that came along\r\n\r\nText\r\n"


class BackupWorld:
    """Use as an asynchronous context."""

    def __init__(self, path: Path, *, window: timedelta = WINDOW) -> None:
        self.path = path
        self.window = window
        self.clock = FakeClock()
        self.server = MemoryServer(self.clock)
        self.skips_lists = False
        self.open()

    def open(self) -> None:
        """Open the store and make a recorder, also again after `crash`."""
        self.store = Store.open(self.path, server_id=SERVER, server_name="mail", clock=self.clock)
        enrolment = self.make_enrolment()
        self.recorder = Recorder(
            self.store, self.server, clock=self.clock, window=self.window, enrolment=enrolment
        )
        self.scan = SmartScan(
            self.store,
            self.server,
            clock=self.clock,
            recorded_through=self.recorded_through,
            workers=0,
            dump_configuration=ConfigurationDump(self.store.layout, self.dumped).write_daily,
            enrolment=enrolment,
            skips_lists=lambda: self.skips_lists,
        )

    def make_enrolment(self) -> Enrolment | None:
        """Return who says which accounts are backed up; None: all are."""
        return None

    def dumped(self) -> list[tuple[str, Path | bytes]]:
        """Return what goes into the dump; asked late, so that a test may break the server's own part."""
        return list(self.server.configuration())

    def crash(self) -> None:
        """End without a checkpoint, and begin again."""
        self.recorder.close()
        self.store.close()
        self.open()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.recorder.close()
        self.store.close()

    async def account(self, identifier: str = ALICE) -> None:
        await self.server.create_account(
            Account(id=identifier, name=f"{identifier}@example.com", metadata={})
        )

    def journal(self, *changes: Change) -> int:
        """Append changes; return the last sequence number."""
        payloads = [encode_change(change) for change in changes]
        return self.store.journal.append(payloads) + len(payloads) - 1

    async def record(self, ripe_through: int = RIPE) -> None:
        """Record all that is ripe, and make it durable."""
        while (await self.recorder.record_next(ripe_through)).more:
            pass
        await self.recorder.checkpoint(force=True)

    async def recorded_through(self, sequence: int) -> None:
        await self.record()
        assert self.recorder.durable_cursor >= sequence

    async def scan_all(self, **options: Any) -> str:
        return await self.scan.run_all(Run(self.clock), ScanOptions(**options))

    async def scan_account(self, account: str, **options: Any) -> str:
        return await self.scan.run_account(Run(self.clock), account, ScanOptions(**options))

    def history(self, item: str, account: str = ALICE, kind: Kind = Kind.MESSAGE) -> list[State]:
        return self.store.histories.read(ItemKey(account, kind, item))


def change(
    item: str = "1",
    type_: ChangeType = ChangeType.MODIFIED,
    *,
    event: str = "",
    at: float = 0.0,
    folder: str | None = "INBOX",
    body: bytes | None = BODY,
    **more: Any,
) -> Change:
    """Return an event's change of one of Alice's messages; `folder` None: nobody photographed it."""
    told: dict[str, Any] = {}
    if folder is not None and type_ is not ChangeType.DELETED:
        told["metadata"] = {"folder": folder}
        if body is not None:
            told |= {"digest": digest_of(body), "size": len(body), "body": body}
    return Change(
        account=ALICE,
        kind=Kind.MESSAGE,
        item=item,
        type=type_,
        time=FakeClock().now() + timedelta(seconds=at),
        event=f"source#{event}" if event else "",
        **{"origin": Origin.REALTIME, **told, **more},
    )


def finding(item: str, basis: int, type_: ChangeType = ChangeType.MODIFIED, **more: Any) -> Change:
    """Return what a scan found whose listing began at `basis`."""
    return change(item, type_, basis=basis, origin=Origin.SMARTSCAN, **more)
