"""The clock watch: a wrong clock is noticed, told, and not forgotten by a restart."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from backupd.store.statistics import BackupStatistics
from backupd.timekeeping import Uptime
from daemon.clock_watch import ClockWatch, system_uptime
from tests.unit.store.making import opened
from tests.world.clocks import FakeClock

YEAR = 365 * 86_400.0


class Machine:
    """A machine whose wall clock can be set."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.boot = "one"

    def uptime(self) -> Uptime:
        return Uptime(self.boot, self.clock.monotonic())


@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
def test_a_clock_set_by_a_year_is_in_doubt_until_it_is_back(tmp_path: Path, seconds: float) -> None:
    """The doubt outlasts a restart of the daemon and of the machine, and ends with the right time."""
    machine = Machine()
    with opened(tmp_path / "b") as store:
        watch = ClockWatch(store, clock=machine.clock, uptime=machine.uptime)
        assert watch.look() == ""
        machine.clock.tick(300)
        machine.clock.jump(seconds)
        assert "the clock says" in watch.look()
    machine.boot = "two"
    machine.clock.tick(60)
    with opened(tmp_path / "b") as store:
        watch = ClockWatch(store, clock=machine.clock, uptime=machine.uptime)
        assert watch.look()
        machine.clock.jump(-seconds)
        assert watch.look() == watch.doubt == ""


def test_an_admin_s_word_ends_a_doubt(tmp_path: Path) -> None:
    """After `accept` the clock is believed as it is."""
    machine = Machine()
    with opened(tmp_path / "b") as store:
        watch = ClockWatch(store, clock=machine.clock, uptime=machine.uptime)
        watch.look()
        machine.clock.jump(YEAR)
        assert watch.look()
        watch.accept()
        assert watch.look() == ""


def test_a_first_look_is_held_against_the_last_scan(tmp_path: Path) -> None:
    """A clock that is behind what the backup itself recorded is in doubt from the first look on."""
    machine = Machine()
    with opened(tmp_path / "b") as store:
        later = machine.clock.now() + timedelta(days=300)
        store.statistics.write_backup(BackupStatistics(last_scan_ended=later))
        assert ClockWatch(store, clock=machine.clock, uptime=machine.uptime).look()


def test_while_the_clock_is_in_doubt_the_time_is_reckoned(tmp_path: Path) -> None:
    """Between two looks, before the first of a process, and after: the time goes on as it was believed."""
    machine = Machine()
    with opened(tmp_path / "b") as store:
        watch = ClockWatch(store, clock=machine.clock, uptime=machine.uptime)
        began = machine.clock.now()
        assert watch.believed_now() == began
        watch.look()
        machine.clock.tick(600)
        machine.clock.jump(-YEAR)
        assert watch.believed_now() == began + timedelta(seconds=600)
        watch.look()
        machine.clock.tick(600)
        for one in (watch, ClockWatch(store, clock=machine.clock, uptime=machine.uptime)):
            assert one.believed_now() == began + timedelta(seconds=1200)
        machine.clock.jump(YEAR)
        assert watch.believed_now() == machine.clock.now()


def test_the_machine_tells_its_boot() -> None:
    """The uptime grows, within one boot."""
    first, second = system_uptime(), system_uptime()
    assert first.boot == second.boot != ""
    assert 0 < first.seconds <= second.seconds
