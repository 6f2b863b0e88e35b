"""The doctor of a running daemon: every check of the set-up at once, each bounded, none in the daemon's way.

What blocks runs in threads of its own, not in those that the daemon works with: a mail storage that hangs
holds one thread per check, never more, and the check says so until it lets go. What a check may meet in the
world makes it `unknown`; a bug is a bug and answered as any other.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from backupd.clock import Clock
from backupd.config import Config
from backupd.control import DoctorReply, Reply
from backupd.errors import BackupdError
from backupd.jobs.doctor import disk, holding, machine, mail, place, settings, verdict
from backupd.store.store import Store
from backupd.views import CheckView
from daemon import broker_probe, outward_checks, standing_checks, wiring
from daemon.answering import Answering, Given
from daemon.peers import Caller
from daemon.realtime import RealtimeScanner
from daemon.standing import Standing

CHECK_SECONDS_MAX = 12.0
"""The longest check, the broker's, bounds itself earlier."""

Result = TypeVar("Result")
Checks = Sequence[CheckView]


class StillHangs(BackupdError):
    """The thread of an earlier examination has not come back yet."""


class Doctor:
    """Examines one lifetime of the daemon. `seconds_max` bounds each check."""

    def __init__(
        self,
        config: Config,
        server_id: str,
        store: Store,
        standing: Standing,
        realtime: RealtimeScanner,
        *,
        clock: Clock,
        seconds_max: float = CHECK_SECONDS_MAX,
    ) -> None:
        self._config = config
        self._server_id = server_id
        self._store = store
        self._standing = standing
        self._realtime = realtime
        self._clock = clock
        self._seconds_max = seconds_max
        self._user = place.user_name(os.geteuid())
        self._threads = Threads()
        self._one_at_a_time = asyncio.Lock()

    def table(self) -> dict[str, Answering]:
        """Return what answers the command, by its title."""

        async def answering(_given: Given, _caller: Caller) -> Reply:
            return await self.examine()

        return {"backup doctor": answering}

    async def examine(self) -> DoctorReply:
        """Make every check, and return what they found."""
        async with self._one_at_a_time, asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._bounded(name, check), name=f"doctor: {name}")
                for name, check in self._checks()
            ]
        return verdict.report(check for task in running for check in task.result())

    def _checks(self) -> list[tuple[str, Callable[[], Awaitable[Checks]]]]:
        return [
            ("daemon", self._standing_checks),
            ("clock", self._clock_checks),
            (settings.NAME, self._configuration),
            (place.NAME, self._backup_path),
            (disk.NAME, self._disk),
            (broker_probe.NAME, self._broker),
            (mail.NAME, self._mail),
            (holding.NAME, self._blobless_mode),
            (outward_checks.NOTIFICATIONS_NAME, self._notifications),
            (outward_checks.METRICS_NAME, self._listener),
        ]

    async def _bounded(self, name: str, check: Callable[[], Awaitable[Checks]]) -> Checks:
        """Make a check; one that hangs or meets an error it does not judge is `unknown`."""
        try:
            async with asyncio.timeout(self._seconds_max):
                return await check()
        except StillHangs as error:
            return [verdict.unknown(name, error.message, error.hint)]
        except TimeoutError:
            text = f"no answer within {self._seconds_max:.0f} s: what it looks at hangs"
            return [verdict.unknown(name, text, "dmesg | tail; is a disk or a mount dead?")]
        except (BackupdError, OSError) as error:
            return [verdict.unknown(name, f"it could not be checked: {error}")]

    # ------------------------------------------------------------------- checks

    async def _standing_checks(self) -> Checks:
        survey = await self._standing.survey()
        facts, status = survey.facts, survey.status
        unit = await self._threads.run("systemd", machine.unit_properties)
        is_ours = unit.get("MainPID") == str(os.getpid())
        restarts = int(unit.get("NRestarts") or 0) if is_ours else None
        return [
            standing_checks.judge_daemon(status.daemon_version, status.started, facts.now, restarts),
            *standing_checks.judge_scanners(facts),
            *standing_checks.judge_runs(facts),
            standing_checks.judge_proof(facts),
            *standing_checks.judge_schedules(facts),
            *standing_checks.judge_stores(facts),
            disk.judge_space(status.space),
        ]

    async def _clock_checks(self) -> Checks:
        def look() -> Checks:
            statistics = self._store.statistics.backup()
            known = [statistics.last_scan_started, statistics.last_scan_ended, self._store.identity.since]
            latest = max((one for one in known if one is not None), default=None)
            clock = machine.look_at_clock(self._clock.now(), latest, os.environ)
            clock = msgspec.structs.replace(clock, doubt=self._standing.clock_doubt)
            return [*machine.judge_clock(clock), *machine.judge_service(machine.look_at_service())]

        return await self._threads.run("clock", look)

    async def _configuration(self) -> Checks:
        def look() -> Checks:
            config = self._config
            found = settings.read_configuration(config.file)
            state = settings.look_at_state(config.server.state_directory)
            return [
                settings.judge_configuration(found, config),
                *settings.judge_secrets(settings.look_at_secrets(config), user=self._user),
                settings.judge_state(state, user=self._user),
            ]

        return await self._threads.run("configuration", look)

    async def _backup_path(self) -> Checks:
        root, mail_root = self._store.layout.root, self._config.appserver.root
        facts = await self._threads.run(
            "Backup Path", lambda: place.look_at_path(root, self._server_id, mail_root)
        )
        return place.judge_path(facts, pid=os.getpid())

    async def _disk(self) -> Checks:
        root = self._store.layout.root
        return disk.judge_disk(await self._threads.run("disk", lambda: disk.measure_disk(root)))

    async def _broker(self) -> Checks:
        address = await self._threads.run("address", lambda: wiring.make_address(self._config))
        broker = broker_probe.EMBEDDED_VIEW
        if address is not None:
            facts = await broker_probe.BrokerProbe(address).run()
            bytes_max = self._config.realtime.event_bytes_max
            broker = broker_probe.judge_probe(facts, event_bytes_max=bytes_max, username=address.username)
        subscription = self._realtime.subscription
        status = subscription.status if subscription is not None else None
        return [broker, *standing_checks.judge_session(status, embedded=self._realtime.is_embedded)]

    async def _mail(self) -> Checks:
        section = self._config.appserver
        facts = await self._threads.run("mail", lambda: mail.look_at_mail(section.root))
        return mail.judge_mail(facts, watch=section.watch, user=self._user)

    async def _blobless_mode(self) -> Checks:
        mode = (await self._standing.survey()).facts.blobless
        holder, facts = self._store.keeping.holder, None
        if holder is not None and (mode.active or mode.trouble or mode.not_fetched):
            facts = await self._threads.run(holding.NAME, functools.partial(holding.look_at_holding, holder))
        return [holding.judge_holding(facts, mode)]

    async def _notifications(self) -> Checks:
        section = self._config.notifications
        called = await outward_checks.call_mail_server(section) if section.smtp_host is not None else None
        return outward_checks.judge_notifications(section, called)

    async def _listener(self) -> Checks:
        listen = self._config.metrics.listen
        facts = await outward_checks.call_listener(listen) if listen is not None else None
        return [outward_checks.judge_listener(listen, facts)]


class Threads:
    """Runs blocking checks in threads, one a check at most; one that hangs keeps its thread and is told."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    async def run(self, name: str, look: Callable[[], Result]) -> Result:
        """Return what a blocking function does, in a thread that nobody waits for in the end.

        Raises `StillHangs` where the one before has not come back, and whatever the function raises.
        """
        if name in self._busy:
            raise StillHangs(
                "the check before still waits for an answer of the system",
                hint="dmesg | tail; is a disk or a mount dead?",
            )
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()

        def work() -> None:
            try:
                found = look()
            except BaseException as error:  # noqa: BLE001 - handed over to whoever waits
                tell: Callable[[], None] = functools.partial(_fail, result, error)
            else:
                tell = functools.partial(_succeed, result, found)
            self._busy.discard(name)
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(tell)

        # A daemon thread: one that hangs for ever must not keep the process from ending.
        self._busy.add(name)
        threading.Thread(target=work, name=f"doctor-{name}", daemon=True).start()
        return await result


def _succeed(result: asyncio.Future[Result], value: Result) -> None:
    if not result.done():
        result.set_result(value)


def _fail(result: asyncio.Future[Result], error: BaseException) -> None:
    if not result.done():
        result.set_exception(error)
