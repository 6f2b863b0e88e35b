"""Operations: queued units of work with a UUID, the ways they may go, and what a job tells about itself.

An operation is queued, runs, and ends in exactly one of five ways; `TRANSITIONS` holds every legal step, and
an illegal one is a bug. It ends with a verdict: a sentence with counts. A job gets a `Run`: it reports
progress, notes items that failed without stopping for them, and asks at safe places whether it shall stop.
Operations are values; `daemon.operations_queue` moves them.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from backupd.clock import Clock
from backupd.decoding import decoded
from backupd.errors import BackupdError, OperationStopped

ITEM_ERRORS_MAX = 100
"""Items that failed are listed up to this number, and counted beyond."""
REASON_CHARACTERS_MAX = 500


class OperationStatus(StrEnum):
    """Where an operation stands. The first three are not ended."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCESSFUL = "successful"
    FAILED = "failed"
    STOPPED = "stopped"
    REMOVED = "removed"
    INTERRUPTED = "interrupted"


_S = OperationStatus

TRANSITIONS: dict[OperationStatus, frozenset[OperationStatus]] = {
    _S.QUEUED: frozenset({_S.RUNNING, _S.REMOVED, _S.INTERRUPTED}),
    _S.RUNNING: frozenset({_S.STOPPING, _S.SUCCESSFUL, _S.FAILED, _S.STOPPED, _S.INTERRUPTED}),
    # A job that was asked to stop may have come to its end before it saw that.
    _S.STOPPING: frozenset({_S.STOPPED, _S.SUCCESSFUL, _S.FAILED, _S.INTERRUPTED}),
    _S.SUCCESSFUL: frozenset(),
    _S.FAILED: frozenset(),
    _S.STOPPED: frozenset(),
    _S.REMOVED: frozenset(),
    _S.INTERRUPTED: frozenset(),
}
"""What may follow each status."""

EXIT_STATUS_OF = {
    _S.SUCCESSFUL: 0,
    _S.FAILED: 1,
    _S.STOPPED: 2,
    _S.REMOVED: 3,
    _S.INTERRUPTED: 4,
}
"""Exit status of whoever waited for the operation, for each way it ends."""


class UnknownOperation(BackupdError):
    """No operation of this UUID is kept."""

    exit_status = 66


class IllegalTransition(Exception):
    """An operation was to take a step that is none: a bug."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a phase of an operation is. `total` None: not known yet. `seconds` it took so far."""

    done: int = 0
    total: int | None = None
    unit: str = "items"
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Units per second, 0 where nothing can be said yet."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Estimate of the time still needed, at the rate so far; None where nothing can be said."""
        if self.total is None:
            return None
        left = self.total - self.done
        if left <= 0:
            return 0.0
        return left / self.rate if self.rate > 0 else None


class ItemError(msgspec.Struct, frozen=True):
    """An item that failed, and why."""

    item: str
    reason: str

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended, in a sentence with counts; `successful` False makes the operation a failed one."""

    sentence: str
    counts: dict[str, int] = {}
    successful: bool = True


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operation as it is kept and shown. `errors` are the first of `errors_total`.

    `order` counts submissions; `hint` says what to do where it failed.
    """

    uuid: str
    order: int
    type: str
    parameters: dict[str, Any] = {}
    started_by: str = ""
    status: OperationStatus = OperationStatus.QUEUED
    submitted: datetime
    started: datetime | None = None
    ended: datetime | None = None
    progress: Progress = Progress()
    verdict: str = ""
    hint: str = ""
    counts: dict[str, int] = {}
    errors: tuple[ItemError, ...] = ()
    errors_total: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return not TRANSITIONS[self.status]

    @property
    def exit_status(self) -> int | None:
        """What `--sync` ends with, None while it has not ended."""
        return EXIT_STATUS_OF.get(self.status)


def moved(
    operation: Operation,
    status: OperationStatus,
    when: datetime,
    *,
    verdict: str = "",
    hint: str = "",
    counts: dict[str, int] | None = None,
) -> Operation:
    """Return the operation after a step to `status`. Raises `IllegalTransition` where there is no such step.

    A start sets `started`, an end sets `ended` (never before `started`, whatever the clock did meanwhile).
    """
    if status not in TRANSITIONS[operation.status]:
        raise IllegalTransition(f"operation {operation.uuid}: {operation.status} can't become {status}")
    changes: dict[str, Any] = {"status": status}
    if status is OperationStatus.RUNNING:
        changes["started"] = max(when, operation.submitted)
    if not TRANSITIONS[status]:
        changes["ended"] = max(when, operation.started or operation.submitted)
        changes |= {"verdict": verdict, "hint": hint, "counts": counts or {}}
    return msgspec.structs.replace(operation, **changes)


def encode_operation(operation: Operation) -> bytes:
    """Return an operation as JSON, as the ledger keeps it."""
    return msgspec.json.encode(operation)


def decode_operation(content: bytes | str) -> Operation:
    """Read an operation back. Raises `msgspec.DecodeError`."""
    return decoded(content, Operation)


class Run:
    """What a running job tells about itself, and how it hears that it shall stop. Thread-safe."""

    def __init__(self, clock: Clock, *, uuid: str = "") -> None:
        self.uuid = uuid
        self._clock = clock
        self._lock = threading.Lock()
        self._phase_began = clock.monotonic()
        self._progress = Progress()
        self._errors: list[ItemError] = []
        self._errors_total = 0
        self._stop = threading.Event()

    def report(self, done: int, total: int | None = None, *, unit: str = "items") -> None:
        """Say how far the job is. Another unit than before begins a new phase, measured from now."""
        now = self._clock.monotonic()
        with self._lock:
            if unit != self._progress.unit and self._progress.done:
                self._phase_began = now
            self._progress = Progress(done=done, total=total, unit=unit, seconds=now - self._phase_began)

    def note_error(self, item: str, reason: str) -> None:
        """Note an item that failed, without stopping for it."""
        error = ItemError(item[:REASON_CHARACTERS_MAX], reason[:REASON_CHARACTERS_MAX])
        with self._lock:
            self._errors_total += 1
            if len(self._errors) < ITEM_ERRORS_MAX:
                self._errors.append(error)

    def check(self) -> None:
        """Raise `OperationStopped` if the job shall stop; called where stopping is safe."""
        if self._stop.is_set():
            raise OperationStopped("stopped as asked")

    @property
    def stop_requested(self) -> bool:
        """Whether the job shall stop at the next safe place."""
        return self._stop.is_set()

    def request_stop(self) -> None:
        """Ask the job to stop at the next safe place."""
        self._stop.set()

    @property
    def progress(self) -> Progress:
        """How far the job said it is."""
        with self._lock:
            return self._progress

    @property
    def errors(self) -> tuple[ItemError, ...]:
        """The first items that failed, at most `ITEM_ERRORS_MAX`."""
        with self._lock:
            return tuple(self._errors)

    @property
    def errors_total(self) -> int:
        """How many items failed."""
        with self._lock:
            return self._errors_total


Work = Callable[[Run], Awaitable[Verdict | str]]
"""What an operation does. It returns its verdict (a sentence alone means success) or raises."""
