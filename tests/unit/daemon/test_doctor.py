"""The doctor of a daemon: all checks at once, bounded, none in the way of the daemon or the next one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backupd.control import DoctorReply, decode_reply, encode
from backupd.jobs.doctor import mail
from backupd.views import CheckView, Outcome
from daemon import doctor as doctor_module
from daemon.doctor import Doctor, StillHangs, Threads
from tests.unit.daemon.making import AnsweringWorld, configured
from tests.unit.jobs.worlds import SERVER

NAMES = [
    *("daemon", "configuration", "secrets", "state directory", "broker", "AppServer", "restores", "watch"),
    *("Backup Path", "file system", "space", "blobless mode", "scanners", "last scan", "operations"),
    *("proven restore", "schedules", "gaps"),
    *(
        "waiting photographs",
        "recorder",
        "damaged files",
        "mass deletions",
        "coherency",
        "notifications",
        "metrics",
    ),
    *("clock", "time zone", "service user", "open files"),
]
"""Every check of a daemon whose Realtime Scanner has not begun, in the order of the answer."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AnsweringWorld]:
    async with AnsweringWorld(tmp_path) as made:
        await made.account()
        await made.scan_all()
        yield made


def of(reply: DoctorReply, name: str) -> CheckView:
    return next(check for check in reply.checks if check.name == name)


def made(world: AnsweringWorld, path: Path, **options: Any) -> Doctor:
    return Doctor(
        configured(path),
        server_id=SERVER,
        store=world.store,
        standing=world.standing,
        realtime=world.realtime,
        clock=world.clock,
        **options,
    )


async def test_every_check_answers_in_order(world: AnsweringWorld):
    """The command gives every check once, and the answer survives the wire."""
    reply = await world.ask("backup", "doctor")
    assert isinstance(reply, DoctorReply)
    assert list(dict.fromkeys(check.name for check in reply.checks)) == NAMES
    assert decode_reply(encode(reply)) == reply


async def test_a_clock_set_back_behind_the_last_scan_is_critical(world: AnsweringWorld):
    """The clock that the daemon runs by is compared with when the backup was last at work."""
    world.clock.jump(-3600)
    clock = of(await world.doctor.examine(), "clock")
    assert clock.outcome is Outcome.CRITICAL
    assert "set back" in clock.found


async def test_space_near_and_below_the_threshold_is_told(world: AnsweringWorld):
    """The threshold that is in force decides."""
    world.store.space_threshold_bytes = world.store.free_bytes() * 3 // 4
    assert of(await world.doctor.examine(), "space").outcome is Outcome.WARNING
    world.store.space_threshold_bytes = world.store.free_bytes() * 2
    assert of(await world.doctor.examine(), "space").outcome is Outcome.CRITICAL


async def test_nothing_is_left_in_the_backup_path(world: AnsweringWorld):
    """An examination leaves no file behind."""
    root = world.store.layout.root
    before = sorted(root.rglob("*"))
    await world.doctor.examine()
    assert sorted(root.rglob("*")) == before


async def test_a_check_that_hangs_is_unknown_and_holds_nobody_up(
    world: AnsweringWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A storage that hangs costs its own line only; the loop goes on, the next examination says so too."""
    release = threading.Event()
    calls = []

    def hang(_root: Path) -> mail.MailFacts:
        calls.append(1)
        release.wait(20)
        return mail.MailFacts(root=tmp_path)

    monkeypatch.setattr(mail, "look_at_mail", hang)
    doctor = made(world, tmp_path, seconds_max=0.5)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        turning = tasks.create_task(turn())
        began = time.monotonic()
        reply = await doctor.examine()
        assert time.monotonic() - began < 15
        turning.cancel()
    assert turns > 5
    hung = of(reply, "AppServer")
    assert hung.outcome is Outcome.UNKNOWN
    assert "no answer within" in hung.found
    again = of(await doctor.examine(), "AppServer")
    assert "the check before still waits" in again.found
    assert len(calls) == 1, "a second thread was given to a storage that hangs"
    release.set()


async def test_an_error_of_the_world_in_a_check_is_unknown(
    world: AnsweringWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An error that a check does not judge itself is told in its line; a bug is not swallowed."""

    def fail(_root: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(mail, "look_at_mail", fail)
    check = of(await made(world, tmp_path).examine(), "AppServer")
    assert (check.outcome, "Input/output error" in check.found) == (Outcome.UNKNOWN, True)

    def bug(_root: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(mail, "look_at_mail", bug)
    with pytest.raises(ExceptionGroup):
        await made(world, tmp_path).examine()


async def test_threads_of_the_doctor_do_not_keep_the_process(world: AnsweringWorld):
    """A thread that hangs is a daemon thread: nobody waits for it at the end."""
    threads, release = Threads(), threading.Event()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(threads.run("x", lambda: release.wait(20)))
        await asyncio.sleep(0.05)
        thread = next(one for one in threading.enumerate() if one.name == "doctor-x")
        assert thread.daemon
        with pytest.raises(StillHangs):
            await threads.run("x", lambda: None)
        release.set()
        assert await waiting
    assert await threads.run("x", lambda: 7) == 7


def test_the_whole_answer_is_bounded_below_fifteen_seconds():
    """All checks run at once, so the longest bounds the answer."""
    assert doctor_module.CHECK_SECONDS_MAX < 15
