"""A small daemon behind a real control socket: answers from memory what the console asks.

`python -m tests.world.service SOCKET` serves until it is ended; tests of the console start it so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from backupd.clock import SystemClock
from backupd.control import (
    AttributeReply,
    BackupInfoReply,
    CommandRequest,
    ConfigReply,
    DoctorReply,
    DoneReply,
    OperationReply,
    Reply,
    ServicesReply,
    StatusReply,
)
from backupd.errors import CorruptBlob, UnknownAccount, UnknownItem
from backupd.items import digest_of
from backupd.operations import OperationStatus
from backupd.replies import AccountsReply, BlobReply, ItemReply, SearchReply
from backupd.views import (
    AccountView,
    AttributeView,
    BrokerView,
    CheckView,
    CountView,
    FoundItem,
    GapView,
    OperationView,
    Outcome,
    Problem,
    ProgressView,
    RecorderView,
    ScannerView,
    ScheduleView,
    ServiceView,
    Severity,
    SpaceView,
    StateView,
)
from daemon.control_socket import ControlAddress, ControlSocket
from daemon.peers import Caller

SERVER_ID = "9d16badb-e89e-4dff-b5b9-bd2bddce53e2"
SERVER_NAME = "mail.example.com"
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CONTENT = b"Subject: caf\xe9 \x00\x1b[31m\r\n\r\nbytes that are no UTF-8: \xff\xfe\r\n" * 3000
CORRUPT = digest_of(b"corrupt")
EVIL_SUBJECT = "\x1b]0;owned\x07[bold]invoice\u202e\x9b2J"
UUIDS = {
    OperationStatus.SUCCESSFUL: "00000000-0000-4000-8000-000000000000",
    OperationStatus.FAILED: "00000000-0000-4000-8000-000000000001",
    OperationStatus.STOPPED: "00000000-0000-4000-8000-000000000002",
    OperationStatus.REMOVED: "00000000-0000-4000-8000-000000000003",
    OperationStatus.INTERRUPTED: "00000000-0000-4000-8000-000000000004",
}
ENDLESS = "00000000-0000-4000-8000-00000000000e"


def operation(uuid: str, status: OperationStatus, done: int = 0) -> OperationView:
    """Return a SmartScan of 10 items."""
    ended = status not in {OperationStatus.QUEUED, OperationStatus.RUNNING}
    return OperationView(
        uuid=uuid,
        type="SmartScan",
        status=status,
        parameters={"deep": True},
        started_by="root",
        submitted=NOON,
        started=NOON + timedelta(seconds=1),
        ended=NOON + timedelta(seconds=62) if ended else None,
        progress=ProgressView(done=done, total=10, unit="items", rate=5.0, remaining_seconds=2.0),
        verdict=f"10 expected, {done} stored, {10 - done} missing" if ended else "",
        errors=("INBOX/7: \x1b[31munreadable",) if status is OperationStatus.FAILED else (),
        errors_total=1 if status is OperationStatus.FAILED else 0,
    )


def state(transaction: int, *, deleted: bool = False) -> StateView:
    """Return the state of an hour: each transaction begins at its own."""
    start = NOON + timedelta(hours=transaction)
    return StateView(
        transaction=transaction,
        start=start,
        end=None if deleted else start + timedelta(hours=1),
        change="deleted" if deleted else "modified",
        deleted=deleted,
        origin="realtime",
        folder="INBOX/Projects",
        digest=digest_of(CONTENT),
        size=len(CONTENT),
        blob_path="items/c0/c0,gUl=",
        metadata={"subject": EVIL_SUBJECT, "flags": ["seen"]},
    )


HIT = FoundItem(
    id="2057",
    kind="message",
    folder="INBOX",
    date=NOON,
    deleted=True,
    deleted_at=NOON,
    subject=EVIL_SUBJECT,
    sender="mallory@example.com",
    size=5123,
)
EVIL_ACCOUNT = "$(reboot)@example.com"
ACCOUNTS = (
    AccountView(id="u1", name="alice@example.com", domain="example.com", created=NOON),
    AccountView(
        id="u2",
        name="bob@example.com",
        status="closed",
        deleted=True,
        exists=False,
        created=NOON,
        deleted_at=NOON + timedelta(days=1),
    ),
    AccountView(id="u3", name=EVIL_ACCOUNT),
)
CHECKS = (
    CheckView(name="broker", outcome=Outcome.OK, found="an event went there and back in 3 ms"),
    CheckView(
        name="Backup Path",
        outcome=Outcome.CRITICAL,
        found="/opt/zextras/backup/zextras is read-only",
        cure="mount it for writing",
    ),
)
ANSWERS: dict[str, Reply] = {
    "getAvailableAccounts": AccountsReply(accounts=ACCOUNTS),
    "doctor": DoctorReply(outcome=Outcome.CRITICAL, checks=CHECKS),
    "getServices": ServicesReply(
        services=(
            ServiceView(name="module", running=True, meaning="the whole backup"),
            ServiceView(name="scheduler", running=False, meaning="starts jobs", note="no job is enabled"),
        )
    ),
    "doStopService": DoneReply(note="no changes are recorded until it is started again"),
    "doItemSearch": SearchReply(account="u1", account_name="alice@example.com", items=(HIT,) * 3),
    "getBackupInfo": BackupInfoReply(
        backup_path="/opt/zextras/backup/zextras",
        server_id=SERVER_ID,
        server_name=SERVER_NAME,
        created=NOON,
        first_scan=NOON,
        last_scan=NOON,
        accounts=20,
    ),
}


def _item(given: dict[str, Any]) -> Reply:
    if given["dump_blob"]:
        digest = CORRUPT if given["item"] == "corrupt" else digest_of(CONTENT)
        return BlobReply(digest=digest, size=len(CONTENT))
    return ItemReply(
        account="u1",
        account_name="alice@example.com",
        item=given["item"],
        kind="message",
        states=(state(1), state(2), state(3, deleted=True)),
    )


class World:
    """A `Service` whose answers do not depend on time. `problems` make its status less than well."""

    names = frozenset({SERVER_ID, SERVER_NAME})

    def __init__(self, problems: tuple[Problem, ...] = ()) -> None:
        self.problems = problems
        self.asked: list[tuple[CommandRequest, Caller]] = []
        self.attributes: dict[str, str] = {"ZxBackup_DestPath": "/opt/zextras/backup/zextras/"}

    async def status(self) -> StatusReply:
        return StatusReply(
            server_id=SERVER_ID,
            server_name=SERVER_NAME,
            backup_path="/opt/zextras/backup/zextras",
            daemon_version="0.1.0",
            pid=42,
            started=NOON - timedelta(days=3),
            now=NOON,
            recoverable_until=NOON - timedelta(seconds=2),
            problems=self.problems,
            realtime=ScannerView(enabled=True, active=True, last_success=NOON - timedelta(seconds=2)),
            smartscan=ScannerView(enabled=True, last_success=NOON - timedelta(hours=8)),
            broker=BrokerView(url="mqtt://localhost:1883", connected=True, since=NOON, received=1_234_567),
            recorder=RecorderView(journaled=1_234_567, recorded=1_234_560, lag_entries=7, lag_seconds=0.2),
            waiting_photographs=1,
            gaps=(GapView(id=3, account="u1", reason="sequence_hole", opened=NOON),) if self.problems else (),
            gaps_total=1 if self.problems else 0,
            operations=(operation(ENDLESS, OperationStatus.RUNNING, 4),),
            schedules=(ScheduleView(job="SmartScan", pattern="0 4 * * *", next=NOON + timedelta(hours=16)),),
            accounts=20,
            counts=(CountView(kind="message", items=7855, deleted=12), CountView(kind="folder", items=140)),
            space=SpaceView(free_bytes=5 << 30, total_bytes=20 << 30, threshold_bytes=1 << 30, blobs=7000),
        )

    async def operations(self) -> Sequence[OperationView]:
        ended = operation(UUIDS[OperationStatus.FAILED], OperationStatus.FAILED, 9)
        return [ended, operation(ENDLESS, OperationStatus.RUNNING, 4)]

    async def operation(self, uuid: str) -> OperationView:
        if uuid == ENDLESS:
            return operation(uuid, OperationStatus.RUNNING, 4)
        for status, known in UUIDS.items():
            if known == uuid:
                return operation(uuid, status, 9 if status is OperationStatus.FAILED else 10)
        raise UnknownItem(
            f"no operation has the UUID {uuid}", hint="backupctl backup getAllOperations lists them"
        )

    async def progress(self, uuid: str) -> AsyncIterator[OperationView]:
        for done in (0, 5):
            yield operation(uuid, OperationStatus.RUNNING, done)
            await asyncio.sleep(0.02)
        if uuid == ENDLESS:
            await asyncio.Event().wait()
        yield await self.operation(uuid)
        await asyncio.Event().wait()  # a stream ends with the operation, even where this iterator does not

    async def execute(self, request: CommandRequest, caller: Caller) -> Reply:
        self.asked.append((request, caller))
        given = request.parameters
        if "account" in given and given["account"] != "alice@example.com":
            raise UnknownAccount(f"no account {given['account']} is in the backup")
        if request.command == "doStopAllOperations":
            raise RuntimeError("a bug, for the test of what bugs do")
        if request.command == "getMap":
            raise FileNotFoundError(2, "No such file or directory", "/gone")
        if request.module == "config":
            return self._configured(request)
        if request.command == "getItem":
            return _item(given)
        if request.command in {"doSmartScan", "doAccountScan", "doItemRestore"}:
            uuid = UUIDS[OperationStatus.FAILED if given.get("deep") else OperationStatus.SUCCESSFUL]
            return OperationReply(operation=operation(uuid, OperationStatus.QUEUED))
        return ANSWERS.get(request.command, DoneReply())

    def _configured(self, request: CommandRequest) -> Reply:
        given = request.parameters
        verb, _, level = request.command.partition(" ")
        if verb == "set":
            self.attributes[given["attribute"]] = given["value"]
            return DoneReply()
        if verb == "info":
            name = given["attribute"]
            return AttributeReply(attribute=name, type="path", default="/x", levels=("server",))
        names = [given["attribute"]] if verb == "get" else list(self.attributes)
        views = [AttributeView(attribute=name, value=self.attributes.get(name, "")) for name in names]
        if verb == "dump":
            views += [AttributeView(attribute="ZxCore_LogLevel", value=1, is_inherited=True)]
        return ConfigReply(level=level, subject=SERVER_ID, values=tuple(views))

    async def blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        if digest not in {CORRUPT, digest_of(CONTENT)}:
            raise UnknownItem(f"no blob {digest}")

        async def pieces() -> AsyncGenerator[bytes, None]:
            for start in range(0, len(CONTENT), 1 << 16):
                yield CONTENT[start : start + (1 << 16)]
            if digest == CORRUPT:
                raise CorruptBlob("the digest differs from the name")

        return pieces()

    async def metrics(self) -> str:
        return "# TYPE backupd_up gauge\nbackupd_up 1\n"


PROBLEM = Problem(
    severity=Severity.DANGER,
    message="The broker can't be reached since 11:58: changes wait there.",
    hint="systemctl status mosquitto",
)


async def serve(path: Path, service: World) -> None:
    """Answer on a socket until cancelled."""
    with ControlAddress() as address:
        async with ControlSocket(address, path, service, clock=SystemClock()):
            print(msgspec.json.encode({"socket": str(path)}).decode(), flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), World((PROBLEM,) if "--problem" in sys.argv else ())))
