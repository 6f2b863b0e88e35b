"""The operations queue: one operation at a time, in the order of submission, kept over restarts.

An operation is saved in the ledger at every change of its status and now and then while it runs. After a
restart those that ran are interrupted; those that waited run if their type's factory can make their work
again from its parameters, else they are interrupted too. A failing work makes a failed operation and never
ends the queue: an operating error gives its message and hint, a bug is counted and logged with its traceback.
Cancelling `run` (the daemon stops) interrupts what runs. Whoever follows an operation sees its newest value;
values in between may be skipped. What can't be saved (a full disk) is logged, counted and done anyway: the
work itself knows best whether it can go on. What is logged while an operation runs carries its UUID.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from uuid import uuid4

import msgspec
import structlog

from backupd.clock import Clock
from backupd.errors import BackupdError, OperationStopped
from backupd.operations import (
    Operation,
    OperationStatus,
    Run,
    UnknownOperation,
    Verdict,
    Work,
    moved,
)

PROGRESS_SECONDS = 0.25
"""How often progress is looked at for those who follow it."""
SAVE_SECONDS = 5.0
"""How often the progress of a running operation is saved."""
LOG_SECONDS = 60.0
"""How often the progress of a running operation is logged."""
WAITING_MAX = 1_000
HISTORY_MAX = 1_000
"""Ended operations that are kept; the oldest go first."""

log = structlog.get_logger(__name__)

Factory = Callable[[Operation], Work]
"""Makes an operation's work from its type and parameters. May raise `BackupdError` where it can't."""


class OperationsLedger(Protocol):
    """Where operations are kept; each method is durable on return and blocks."""

    def operations(self) -> Iterable[Operation]:
        """Return every kept operation, in any order."""
        ...

    def save_operation(self, operation: Operation) -> None:
        """Keep an operation in place of its older value."""
        ...

    def forget_operations(self, uuids: Sequence[str]) -> None:
        """Remove operations."""
        ...


class QueueFull(BackupdError):
    """Too many operations wait."""

    exit_status = 75


class _Place:
    """An operation in the queue, with what only lives as long as the process."""

    def __init__(self, operation: Operation, work: Work | None = None) -> None:
        self.operation = operation
        self.work = work
        self.running: Run | None = None
        self.is_ending = False
        self.changed = asyncio.Event()


class OperationsQueue:
    """All operations of the daemon. Used from the event loop only."""

    def __init__(
        self,
        ledger: OperationsLedger,
        factories: Mapping[str, Factory],
        *,
        clock: Clock,
        waiting_max: int = WAITING_MAX,
        history_max: int = HISTORY_MAX,
        on_change: Callable[[Operation], None] = lambda _operation: None,
    ) -> None:
        """Make a queue. `on_change` hears of each operation that began or ended; it must not wait."""
        self._ledger = ledger
        self._factories = factories
        self._clock = clock
        self._waiting_max = waiting_max
        self._history_max = history_max
        self._on_change = on_change
        self._places: dict[str, _Place] = {}
        self._order = 0
        self._wake = asyncio.Event()
        self._saving = asyncio.Lock()
        self._is_held = False
        self.bugs = 0
        self.unsaved = 0

    async def load(self) -> list[Operation]:
        """Take over what an earlier process left; return the operations that it was interrupted in."""
        kept = await asyncio.to_thread(lambda: list(self._ledger.operations()))
        kept.sort(key=lambda operation: operation.order)
        interrupted = []
        for operation in kept:
            self._order = max(self._order, operation.order)
            place = self._places[operation.uuid] = _Place(operation)
            if operation.status in (OperationStatus.RUNNING, OperationStatus.STOPPING):
                await self._end(place, OperationStatus.INTERRUPTED, "the daemon ended while it ran")
                interrupted.append(place.operation)
            elif operation.status is OperationStatus.QUEUED and operation.type not in self._factories:
                await self._end(place, OperationStatus.INTERRUPTED, "it can't be taken up after a restart")
        await self._forget_old()
        self._wake.set()
        return interrupted

    async def run(self) -> None:
        """Work until cancelled, one operation after the other."""
        while True:
            place = None if self._is_held else next(self._waiting(), None)
            if place is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._work_on(place)
            await self._forget_old()

    async def submit(
        self,
        type_: str,
        parameters: Mapping[str, Any],
        *,
        started_by: str,
        work: Work | None = None,
        once: bool = False,
    ) -> Operation:
        """Queue an operation and return it, saved. Raises `QueueFull` and what the type's factory raises.

        `work` stands in for a factory; such an operation does not survive a restart. With `once` an
        operation of the same type and parameters that still waits is returned instead of a second one.
        """
        given = msgspec.to_builtins(dict(parameters))
        if once:
            for place in self._waiting():
                if place.operation.type == type_ and place.operation.parameters == given:
                    return place.operation
        if sum(1 for _ in self._waiting()) >= self._waiting_max:
            raise QueueFull(f"{self._waiting_max} operations wait already", hint="stop some of them first")
        self._order += 1
        operation = Operation(
            uuid=str(uuid4()),
            order=self._order,
            type=type_,
            parameters=given,
            started_by=started_by,
            submitted=self._clock.now(),
        )
        if work is None:
            work = self._factories[type_](operation)
        place = self._places[operation.uuid] = _Place(operation, work)
        log.info("operation_queued", operation=operation.uuid, type=type_, started_by=started_by)
        await self._save(place)
        self._wake.set()
        return place.operation

    def hold(self, *, held: bool) -> None:
        """Begin no operation any more, or go on; what runs is not touched."""
        self._is_held = held
        self._wake.set()

    def get(self, uuid: str) -> Operation:
        """Return an operation. Raises `UnknownOperation`."""
        return self._place(uuid).operation

    def operations(self) -> list[Operation]:
        """Return all operations that are kept, in the order of submission."""
        return [place.operation for place in self._places.values()]

    async def stop(self, uuid: str) -> Operation:
        """Take a waiting operation out of the queue, ask a running one to stop; return it as it is now."""
        place = self._place(uuid)
        if place.operation.status is OperationStatus.QUEUED:
            await self._end(place, OperationStatus.REMOVED, "taken out of the queue before it began")
        elif place.operation.status is OperationStatus.RUNNING and place.running is not None:
            place.running.request_stop()
            self._become(place, moved(place.operation, OperationStatus.STOPPING, self._clock.now()))
            await self._save(place)
        return place.operation

    async def stop_all(self) -> list[Operation]:
        """Stop what runs and take out what waits; return those."""
        uuids = [place.operation.uuid for place in self._places.values() if not place.operation.has_ended]
        # The waiting ones first: else the next would begin while the running one stops.
        return [await self.stop(uuid) for uuid in reversed(uuids)]

    async def follow(self, uuid: str) -> AsyncIterator[Operation]:
        """Yield an operation as it is now, then its newest value whenever it changed, at last as it ended."""
        place = self._place(uuid)
        while True:
            changed, operation = place.changed, place.operation
            yield operation
            if operation.has_ended:
                return
            await changed.wait()

    async def wait_until_ended(self, uuid: str) -> Operation:
        """Return an operation once it has ended and is kept. Raises `UnknownOperation`."""
        place = self._place(uuid)
        while place.is_ending or not place.operation.has_ended:
            await place.changed.wait()
        return place.operation

    def _waiting(self) -> Iterator[_Place]:
        return (place for place in self._places.values() if place.operation.status is OperationStatus.QUEUED)

    def _place(self, uuid: str) -> _Place:
        place = self._places.get(uuid)
        if place is None:
            raise UnknownOperation(f"no operation {uuid[:80]!r}", hint="getAllOperations lists them")
        return place

    async def _work_on(self, place: _Place) -> None:
        run = place.running = Run(self._clock, uuid=place.operation.uuid)
        self._become(place, moved(place.operation, OperationStatus.RUNNING, self._clock.now()))
        began = place.operation
        log.info("operation_started", operation=began.uuid, type=began.type, parameters=began.parameters)
        self._tell(began)
        with structlog.contextvars.bound_contextvars(operation=place.operation.uuid):
            try:
                await self._save(place)
                async with asyncio.TaskGroup() as group:
                    watching = group.create_task(self._watch(place, run), name="operation progress")
                    status, verdict, hint = await self._outcome(place, run)
                    watching.cancel()
            except asyncio.CancelledError:
                run.request_stop()  # a thread that works on it must not outlive what this lifetime opened
                self._take_progress(place, run)
                await self._end(place, OperationStatus.INTERRUPTED, "the daemon stopped while it ran")
                raise
        self._take_progress(place, run)
        await self._end(place, status, verdict.sentence, hint=hint, counts=verdict.counts)

    async def _outcome(self, place: _Place, run: Run) -> tuple[OperationStatus, Verdict, str]:
        """Do the work; return how it ended. Only the daemon's own end passes through as an exception."""
        try:
            work = place.work or self._factories[place.operation.type](place.operation)
            returned = await work(run)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failure(error, run)
        except Exception as error:  # noqa: BLE001 - the boundary of a job: it is told, counted and ends the operation
            return self._failure(_cause(error), run)
        verdict = Verdict(sentence=returned) if isinstance(returned, str) else returned
        status = OperationStatus.SUCCESSFUL if verdict.successful else OperationStatus.FAILED
        return status, verdict, ""

    def _failure(self, error: BaseException, run: Run) -> tuple[OperationStatus, Verdict, str]:
        match error:
            case OperationStopped():
                done = f"{run.progress.done:,} {run.progress.unit} done"
                return OperationStatus.STOPPED, Verdict(sentence=f"{error.message}; {done}"), error.hint
            case BackupdError():
                # An error may have a fact that is called `reason`, or `event`, too; the message tells it.
                facts = {name: fact for name, fact in error.facts.items() if name != "event"}
                log.error("operation_failed", **(facts | {"reason": error.message}))
                return OperationStatus.FAILED, Verdict(sentence=error.message), error.hint
            case OSError():
                log.error("operation_failed", reason=str(error))
                return OperationStatus.FAILED, Verdict(sentence=str(error)), ""
            case _:
                self.bugs += 1
                log.error("operation_met_a_bug", exc_info=error)
                sentence = f"a bug ended it: {type(error).__name__}: {str(error)[:200]}"
                return OperationStatus.FAILED, Verdict(sentence=sentence), "the log has the traceback"

    async def _watch(self, place: _Place, run: Run) -> None:
        """Show progress to those who follow, and save it from time to time, until cancelled."""
        saved = logged = self._clock.monotonic()
        while True:
            await self._clock.sleep(PROGRESS_SECONDS)
            unit, is_new = place.operation.progress.unit, self._take_progress(place, run)
            now, progress = self._clock.monotonic(), place.operation.progress
            if is_new and now - saved >= SAVE_SECONDS:
                await self._save(place)
                saved = now
            if is_new and (now - logged >= LOG_SECONDS or progress.unit != unit):
                log.info("operation_progress", done=progress.done, of=progress.total, unit=progress.unit)
                logged = now

    def _take_progress(self, place: _Place, run: Run) -> bool:
        before = place.operation
        after = msgspec.structs.replace(
            before, progress=run.progress, errors=run.errors, errors_total=run.errors_total
        )
        if after != before:
            self._become(place, after)
        for error in after.errors[len(before.errors) :]:
            log.warning("item_failed", operation=before.uuid, item=error.item, reason=error.reason)
        return after != before

    async def _end(
        self,
        place: _Place,
        status: OperationStatus,
        sentence: str,
        *,
        hint: str = "",
        counts: dict[str, int] | None = None,
    ) -> None:
        now = self._clock.now()
        ended = moved(place.operation, status, now, verdict=sentence, hint=hint, counts=counts)
        place.work = place.running = None
        place.operation, place.is_ending = ended, True
        log.info(
            "operation_ended",
            operation=ended.uuid,
            type=ended.type,
            status=status.value,
            verdict=sentence,
            errors=ended.errors_total,
            seconds=round((ended.ended - ended.started).total_seconds(), 3)
            if ended.ended and ended.started
            else 0,
        )
        try:
            await self._save(place)
        finally:
            # Whoever waits hears of the end once it is kept: a crash can't take it back.
            place.is_ending = False
            self._become(place, ended)
            self._tell(ended)

    def _tell(self, operation: Operation) -> None:
        """Tell the listener of a start or an end; what it does can't harm the operation."""
        try:
            self._on_change(operation)
        except Exception as error:
            self.bugs += 1
            log.error("operation_listener_met_a_bug", operation=operation.uuid, exc_info=error)

    def _become(self, place: _Place, operation: Operation) -> None:
        place.operation = operation
        place.changed.set()
        place.changed = asyncio.Event()

    async def _save(self, place: _Place) -> None:
        """Save the newest value; the lock keeps an older one from being written after it."""
        async with self._saving:
            operation = place.operation
            try:
                await asyncio.to_thread(self._ledger.save_operation, operation)
            except (OSError, sqlite3.Error, BackupdError) as error:
                self.unsaved += 1
                log.error("operation_not_saved", operation=operation.uuid, reason=str(error))

    async def _forget_old(self) -> None:
        ended = [uuid for uuid, place in self._places.items() if place.operation.has_ended]
        # The last success of each type stays: when a restore was last proven must not be forgotten.
        proven = {
            place.operation.type: uuid
            for uuid, place in self._places.items()
            if place.operation.status is OperationStatus.SUCCESSFUL
        }
        stays = set(proven.values())
        old = [uuid for uuid in ended[: max(0, len(ended) - self._history_max)] if uuid not in stays]
        if not old:
            return
        for uuid in old:
            del self._places[uuid]
        try:
            await asyncio.to_thread(self._ledger.forget_operations, old)
        except (OSError, sqlite3.Error, BackupdError) as error:
            log.error("operations_not_forgotten", operations=len(old), reason=str(error))


def _cause(error: BaseException) -> BaseException:
    """Return the one error that tells why a task group failed: a bug first, then a request to stop."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_cause(inner) for inner in error.exceptions]
    bugs = [leaf for leaf in leaves if not isinstance(leaf, BackupdError | OSError)]
    stops = [leaf for leaf in leaves if isinstance(leaf, OperationStopped)]
    return (bugs or stops or leaves)[0]
