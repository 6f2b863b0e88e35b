"""The operations queue: order, restarts, stopping, failures, followers and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import pytest

from backupd.errors import AppServerUnavailable
from backupd.operations import Operation, OperationStatus, Run, UnknownOperation, Verdict
from daemon.operations_queue import OperationsQueue, QueueFull
from tests.world.clocks import START, FakeClock, settle

S = OperationStatus


class MemoryLedger:
    """Operations in a table; every value that was saved, in order."""

    def __init__(self) -> None:
        self.rows: dict[str, Operation] = {}
        self.saved: list[S] = []
        self.broken: OSError | None = None

    def operations(self) -> Iterable[Operation]:
        return list(self.rows.values())

    def save_operation(self, operation: Operation) -> None:
        if self.broken is not None:
            raise self.broken
        self.rows[operation.uuid] = operation
        self.saved.append(operation.status)

    def forget_operations(self, uuids: Sequence[str]) -> None:
        for uuid in uuids:
            del self.rows[uuid]


class Jobs:
    """Work that a test lets go on when it likes."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.go = asyncio.Event()
        self.runs: list[Run] = []

    def factory(self, operation: Operation):
        async def work(run: Run) -> str:
            self.began.append(str(operation.parameters.get("name", "")))
            self.runs.append(run)
            while not self.go.is_set():
                run.check()
                await asyncio.sleep(0)
            return "1 expected, 1 done"

        return work


class World:
    """A queue with everything around it."""

    def __init__(self, ledger: MemoryLedger | None = None, **bounds: int) -> None:
        self.ledger = ledger or MemoryLedger()
        self.jobs = Jobs()
        self.clock = FakeClock()
        factories = dict.fromkeys(("Scan", "Rare"), self.jobs.factory)
        self.queue = OperationsQueue(self.ledger, factories, clock=self.clock, **bounds)

    async def submit(self, name: str = "", **more) -> Operation:
        return await self.queue.submit("Scan", {"name": name}, started_by="test", **more)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Let the queue work meanwhile; a daemon's end follows."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.queue.run())
            yield
            task.cancel()

    async def begun(self, works: int = 1) -> None:
        """Wait until so many works have begun; the ledger's threads are waited for."""
        async with asyncio.timeout(30):
            while len(self.jobs.runs) < works:  # noqa: ASYNC110 - a thread saves the start first
                await asyncio.sleep(0)

    async def until(self, uuid: str, status: S) -> Operation:
        async with asyncio.timeout(30):
            async for operation in self.queue.follow(uuid):
                if operation.status is status:
                    return operation
        raise AssertionError(f"never {status}: {self.queue.get(uuid)}")


async def test_operations_run_one_after_the_other() -> None:
    """Three operations begin in the order of submission, each once the one before has ended."""
    world = World()
    one, two, three = [await world.submit(name) for name in ("one", "two", "three")]
    async with world.working():
        await world.until(one.uuid, S.RUNNING)
        await settle()
        assert [operation.status for operation in world.queue.operations()] == [S.RUNNING, S.QUEUED, S.QUEUED]
        world.jobs.go.set()
        ended = await world.queue.wait_until_ended(three.uuid)
    assert world.jobs.began == ["one", "two", "three"]
    assert (ended.status, ended.verdict, ended.exit_status) == (S.SUCCESSFUL, "1 expected, 1 done", 0)
    assert world.ledger.rows[two.uuid].status is S.SUCCESSFUL


async def test_each_status_is_saved() -> None:
    """Queued, running and the end are in the ledger, and a submission is saved before it is answered."""
    world = World()
    world.jobs.go.set()
    operation = await world.submit()
    assert world.ledger.rows[operation.uuid].status is S.QUEUED
    async with world.working():
        await world.queue.wait_until_ended(operation.uuid)
    assert world.ledger.saved == [S.QUEUED, S.RUNNING, S.SUCCESSFUL]


async def test_a_restart_interrupts_what_ran_and_goes_on_with_what_waited() -> None:
    """The daemon's end interrupts the running operation; the waiting one runs in the next process."""
    first = World()
    running, waiting = await first.submit("running"), await first.submit("waiting")
    async with first.working():
        await first.until(running.uuid, S.RUNNING)
    assert first.ledger.rows[running.uuid].status is S.INTERRUPTED
    assert first.ledger.rows[waiting.uuid].status is S.QUEUED

    second = World(first.ledger)
    assert await second.queue.load() == []
    second.jobs.go.set()
    async with second.working():
        assert (await second.queue.wait_until_ended(waiting.uuid)).status is S.SUCCESSFUL
    assert second.jobs.began == ["waiting"]
    assert (await second.submit()).order == 3


async def test_a_crash_leaves_interrupted_operations() -> None:
    """What the ledger shows as running after a crash is interrupted and told; unknown types are too."""
    ledger = MemoryLedger()
    for number, (type_, status) in enumerate([("Scan", S.RUNNING), ("Scan", S.STOPPING), ("Old", S.QUEUED)]):
        ledger.save_operation(
            Operation(uuid=f"u{number}", order=number, type=type_, status=status, submitted=START)
        )
    world = World(ledger)
    interrupted = await world.queue.load()
    assert [operation.uuid for operation in interrupted] == ["u0", "u1"]
    assert {operation.status for operation in ledger.rows.values()} == {S.INTERRUPTED}
    assert world.queue.get("u2").exit_status == 4


async def test_a_waiting_operation_is_taken_out() -> None:
    """Stopping what waits removes it: it never begins."""
    world = World()
    one, two = await world.submit("one"), await world.submit("two")
    assert (await world.queue.stop(two.uuid)).status is S.REMOVED
    world.jobs.go.set()
    async with world.working():
        await world.queue.wait_until_ended(one.uuid)
    assert world.jobs.began == ["one"]
    assert (await world.queue.stop(two.uuid)).status is S.REMOVED


async def test_a_running_operation_stops_at_a_safe_place() -> None:
    """Stopping what runs asks it to; it ends as stopped, and the next one begins."""
    world = World()
    one, two = await world.submit("one"), await world.submit("two")
    async with world.working():
        await world.begun()
        world.jobs.runs[0].report(7, 10)
        stopped = await world.queue.stop(one.uuid)
        assert stopped.status in (S.STOPPING, S.STOPPED)
        ended = await world.queue.wait_until_ended(one.uuid)
        await world.until(two.uuid, S.RUNNING)
    assert (ended.status, ended.exit_status, ended.progress.done) == (S.STOPPED, 2, 7)
    assert "7 items done" in ended.verdict


async def test_all_are_stopped_at_once() -> None:
    """Stopping all removes what waits before the running one ends, so that nothing else begins."""
    world = World()
    operations = [await world.submit(name) for name in "abc"]
    async with world.working():
        await world.until(operations[0].uuid, S.RUNNING)
        await world.queue.stop_all()
        await world.queue.wait_until_ended(operations[0].uuid)
        await settle()
    assert [world.queue.get(one.uuid).status for one in operations] == [S.STOPPED, S.REMOVED, S.REMOVED]
    assert world.jobs.began == ["a"]


async def failing(error: BaseException) -> tuple[Operation, World]:
    """Return how an operation ends that raises this, in a queue that goes on afterwards."""
    world = World()

    async def work(run: Run) -> str:
        run.note_error("a/1", "unreadable")
        raise error

    operation = await world.queue.submit("Odd", {}, started_by="test", work=work)
    after = await world.submit("after")
    world.jobs.go.set()
    async with world.working():
        ended = await world.queue.wait_until_ended(operation.uuid)
        assert (await world.queue.wait_until_ended(after.uuid)).status is S.SUCCESSFUL
    return ended, world


async def test_an_operating_error_fails_with_its_hint() -> None:
    """A known error is the verdict, with hint and items noted, whatever its facts; the queue goes on."""
    ended, world = await failing(AppServerUnavailable("the root is missing", hint="mount it", reason="gone"))
    assert (ended.status, ended.verdict, ended.hint) == (S.FAILED, "the root is missing", "mount it")
    assert ([str(error) for error in ended.errors], ended.errors_total) == (["a/1: unreadable"], 1)
    assert world.queue.bugs == 0


async def test_a_bug_is_counted_and_ends_only_the_operation() -> None:
    """An unexpected exception fails the operation, is counted, and the queue goes on."""
    ended, world = await failing(KeyError("oops"))
    assert ended.status is S.FAILED
    assert "KeyError" in ended.verdict
    assert world.queue.bugs == 1


async def test_errors_of_task_groups_are_unpacked() -> None:
    """A group's failure is told by its operating error, unless a bug is among them."""
    known = AppServerUnavailable("away")
    ended, world = await failing(ExceptionGroup("group", [ExceptionGroup("inner", [known])]))
    assert (ended.verdict, world.queue.bugs) == ("away", 0)
    ended, world = await failing(ExceptionGroup("group", [known, TypeError("wrong")]))
    assert ("TypeError" in ended.verdict, world.queue.bugs) == (True, 1)


async def test_a_works_own_cancellation_is_not_the_daemons_end() -> None:
    """A work that cancels itself fails as a bug; the queue goes on."""
    ended, world = await failing(asyncio.CancelledError())
    assert (ended.status, world.queue.bugs) == (S.FAILED, 1)


async def test_a_verdict_may_say_that_it_failed() -> None:
    """A job that came to its end with things missing returns a verdict that makes it a failure."""
    world = World()

    async def work(_: Run) -> Verdict:
        return Verdict(sentence="3 expected, 2 stored", counts={"missing": 1}, successful=False)

    operation = await world.queue.submit("Odd", {}, started_by="test", work=work)
    async with world.working():
        ended = await world.queue.wait_until_ended(operation.uuid)
    assert (ended.status, ended.counts, ended.exit_status) == (S.FAILED, {"missing": 1}, 1)


async def test_followers_see_progress_and_the_end() -> None:
    """A follower gets the operation as it is, newer values as time passes, and at last the end."""
    world = World()
    operation = await world.submit()
    seen: list[tuple[S, int]] = []

    async def follow() -> None:
        following = world.queue.follow(operation.uuid)
        seen.extend([(value.status, value.progress.done) async for value in following])

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        await settle()
        async with world.working():
            await world.begun()
            await world.clock.wait_until_asleep()
            for done in (3, 9):
                world.jobs.runs[0].report(done, 10)
                await world.clock.advance(0.3)
            world.jobs.go.set()
            await world.queue.wait_until_ended(operation.uuid)
            await following
    assert seen[0] == (S.QUEUED, 0)
    assert (S.RUNNING, 3) in seen
    assert seen[-1] == (S.SUCCESSFUL, 9)


async def test_a_slow_follower_skips_to_the_newest() -> None:
    """Values that nobody waited for are skipped: a follower holds no queue of old ones."""
    world = World()
    operation = await world.submit()
    following = world.queue.follow(operation.uuid)
    assert (await anext(following)).status is S.QUEUED
    world.jobs.go.set()
    async with world.working():
        await world.queue.wait_until_ended(operation.uuid)
    rest = [value.status async for value in following]
    assert rest == [S.SUCCESSFUL]


async def test_progress_is_saved_now_and_then() -> None:
    """A long operation's progress reaches the ledger every few seconds, not at each report."""
    world = World()
    operation = await world.submit()
    async with world.working():
        await world.begun()
        await world.clock.wait_until_asleep()
        before = len(world.ledger.saved)
        for done in range(48):
            world.jobs.runs[0].report(done, 100)
            await world.clock.advance(0.25)
            await world.clock.wait_until_asleep()
        assert 1 <= len(world.ledger.saved) - before <= 3
        assert world.ledger.rows[operation.uuid].progress.done > 0


async def test_the_same_waiting_operation_is_not_queued_twice() -> None:
    """With `once` an equal one that waits is returned; one that runs already does not count."""
    world = World()
    one = await world.submit("same", once=True)
    assert (await world.submit("same", once=True)).uuid == one.uuid
    assert (await world.submit("other", once=True)).uuid != one.uuid
    assert (await world.submit("same")).uuid != one.uuid
    fresh = World()
    running = await fresh.submit("same", once=True)
    async with fresh.working():
        await fresh.until(running.uuid, S.RUNNING)
        assert (await fresh.submit("same", once=True)).uuid != running.uuid


async def test_the_queue_is_bounded() -> None:
    """More operations than may wait are refused with what to do."""
    world = World(waiting_max=2)
    await world.submit()
    await world.submit()
    with pytest.raises(QueueFull, match="2 operations wait") as caught:
        await world.submit()
    assert caught.value.exit_status == 75


async def test_the_history_is_bounded() -> None:
    """The newest ended operations are kept, and the last success of each type, here and in the ledger."""
    world = World(history_max=2)
    world.jobs.go.set()
    rare = [await world.queue.submit("Rare", {}, started_by="test") for _ in range(2)]
    operations = [await world.submit() for _ in range(4)]
    async with world.working():
        await world.queue.wait_until_ended(operations[-1].uuid)
        async with asyncio.timeout(30):
            while len(world.ledger.rows) > 3:  # noqa: ASYNC110 - a thread removes them
                await asyncio.sleep(0)
    kept = [operation.uuid for operation in (rare[1], *operations[-2:])]
    assert [operation.uuid for operation in world.queue.operations()] == kept
    assert list(world.ledger.rows) == kept


async def test_a_full_disk_does_not_stop_operations() -> None:
    """What can't be saved is counted, and the operation runs all the same."""
    world = World()
    world.ledger.broken = OSError(28, "No space left on device")
    world.jobs.go.set()
    operation = await world.submit()
    async with world.working():
        assert (await world.queue.wait_until_ended(operation.uuid)).status is S.SUCCESSFUL
    assert world.queue.unsaved >= 2
    assert world.ledger.rows == {}


async def test_an_unknown_operation_is_told() -> None:
    """Asking for, following and stopping an operation that is not kept is an error of its own."""
    world = World()
    with pytest.raises(UnknownOperation, match="no operation 'nobody'"):
        world.queue.get("nobody")
    with pytest.raises(UnknownOperation):
        await world.queue.stop("nobody")
    with pytest.raises(UnknownOperation):
        await anext(world.queue.follow("nobody"))


async def test_a_listener_hears_of_start_and_end_and_can_break_nothing() -> None:
    """Start and end of each operation are told, the end once it is kept; a listener's bug is only counted."""
    world, told = World(), []

    def listen(operation: Operation) -> None:
        told.append((operation.status, world.ledger.rows[operation.uuid].status))
        raise ValueError

    world.queue._on_change = listen
    world.jobs.go.set()
    one, two = await world.submit(), await world.submit()
    await world.queue.stop(two.uuid)
    async with world.working():
        assert (await world.queue.wait_until_ended(one.uuid)).status is S.SUCCESSFUL
    assert [status for status, _ in told] == [S.REMOVED, S.RUNNING, S.SUCCESSFUL]
    assert told[-1] == (S.SUCCESSFUL, S.SUCCESSFUL)
    assert world.queue.bugs == 3


async def test_what_a_crash_interrupted_is_told() -> None:
    """A listener hears of what ran when the process before ended."""
    world, told = World(), []
    ran = Operation(uuid="u", order=1, type="Scan", status=S.RUNNING, submitted=START)
    world.ledger.save_operation(ran)
    world.queue._on_change = told.append
    await world.queue.load()
    assert [one.status for one in told] == [S.INTERRUPTED]
