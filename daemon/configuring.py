"""Configuring: the answers of the modules `config` and `scheduler`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from backupd.attribute import Attribute, Level
from backupd.attributes import (
    Resolved,
    Schedule,
    Scopes,
    Settings,
    attribute_named,
    checked,
    schedule_of,
    unrevealing,
    why_no_pattern,
)
from backupd.control import AttributeReply, ConfigReply, DoneReply, Reply, SchedulesReply
from backupd.errors import UnknownAccount, UnknownEntry, UsageError
from backupd.items import Kind
from backupd.schedules import JOBS, ScheduledJob
from backupd.store.store import Store
from backupd.views import AttributeView, ScheduleView
from daemon import views
from daemon.answering import Answering, Given
from daemon.bucket_commands import BucketCommands, Probe
from daemon.operations_queue import OperationsQueue
from daemon.peers import Caller
from daemon.scheduler import Scheduler

LEVELS = ("global", "server", "cos", "domain", "account")


class Configuring:
    """Reads and changes attributes. `names` are those by which this server may be meant.

    Attributes are changed one at a time, here and by the commands of buckets: each builds on those before.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        scheduler: Scheduler,
        server_id: str,
        server_name: str,
        names: frozenset[str],
        queue: OperationsQueue,
        probe: Probe,
    ) -> None:
        self._settings = settings
        self._store = store
        self._scheduler = scheduler
        self._server_id = server_id
        self._server_name = server_name
        self._names = {name.casefold() for name in names}
        self._setting = asyncio.Lock()
        self.buckets = BucketCommands(
            settings=settings,
            setting=self._setting,
            queue=queue,
            server_id=server_id,
            server_name=server_name,
            probe=probe,
        )
        self._guards = self.buckets.guards()

    def table(self) -> Mapping[str, Answering]:
        """Return what answers each command, by its title."""
        table: dict[str, Answering] = {"config info": self._explain, **self.buckets.table()}
        for level in LEVELS:
            for verb, answer in (("get", self._get), ("set", self._set), ("unset", self._unset)):
                table[f"config {verb} {level}"] = _at(level, answer)
            table[f"config dump {level}"] = _at(level, self._dump)
        for job in JOBS:
            for level in LEVELS[:2]:
                table[f"scheduler {job.name} get {level}"] = _at(level, _of(job, self._get_schedule))
                table[f"scheduler {job.name} set {level}"] = _at(level, _of(job, self._set_schedule))
        return table

    async def _explain(self, given: Given, _caller: Caller) -> Reply:
        attribute = attribute_named(given["attribute"])
        no_effect = f" No effect here: {attribute.no_effect}." if attribute.no_effect else ""
        return AttributeReply(
            attribute=attribute.name,
            type=attribute.type.value,
            default=attribute.default,
            range=attribute.range,
            levels=tuple(level.value for level in attribute.levels),
            meaning=attribute.meaning + no_effect,
            modules=(attribute.module,),
        )

    async def _get(self, level: str, given: Given) -> Reply:
        scopes = await self._scopes(level, given)
        if given["attribute"] is None:
            return _config_reply(level, scopes, self._settings.dump(scopes))
        return _config_reply(level, scopes, [self._settings.get(given["attribute"], scopes)])

    async def _dump(self, level: str, given: Given) -> Reply:
        scopes = await self._scopes(level, given)
        dumped = self._settings.dump(scopes, show_inherited=given["show_inherited"])
        return _config_reply(level, scopes, dumped)

    async def _set(self, level: str, given: Given) -> Reply:
        scopes = await self._scopes(level, given)
        attribute = attribute_named(given["attribute"])
        async with self._setting:
            await asyncio.to_thread(
                self._settings.set, attribute.name, scopes, self._judged(attribute, given["value"])
            )
        no_effect = f"{attribute.name} is kept, without effect here: {attribute.no_effect}"
        return DoneReply(note=no_effect if attribute.no_effect else self._in_its_place(attribute.name, level))

    def _in_its_place(self, attribute: str, level: str) -> str:
        """Say where a value was set globally and this server has its own, which stays in force."""
        if level != Level.GLOBAL or (Level.SERVER, self._server_id) not in self._settings.stored(attribute):
            return ""
        return (
            f"this server has a value of its own, which stays in force; without it the global one counts: "
            f"backupctl config unset server {self._server_name} {attribute}"
        )

    async def _unset(self, level: str, given: Given) -> Reply:
        scopes = await self._scopes(level, given)
        attribute = attribute_named(given["attribute"])
        async with self._setting:
            self._judged(attribute, None)
            await asyncio.to_thread(self._settings.unset, attribute.name, scopes)
        return DoneReply()

    def _judged(self, attribute: Attribute, value: object) -> object:
        """Return the value to be set, as the part decides that an attribute is about. Raises `UsageError`."""
        guard = self._guards.get(attribute.name)
        if guard is None:
            return value
        return guard(None if value is None else checked(attribute, value))

    # ---------------------------------------------------------------- schedules

    async def _get_schedule(self, job: ScheduledJob, level: str, given: Given) -> Reply:
        scopes = await self._scopes(level, given)
        resolved = self._settings.get(job.attribute, scopes)
        schedule = schedule_of(resolved.value)
        running = next(
            (views.schedule_view(one) for one in self._scheduler.jobs if one.name == job.name), None
        )
        view = msgspec.structs.replace(
            ScheduleView(job=job.name) if running is None else running,
            pattern=schedule.cron_pattern,
            enabled=schedule.cron_enabled,
            note="" if running is None else running.note,
            is_inherited=resolved.is_inherited,
        )
        return SchedulesReply(level=level, subject=scopes.server, schedules=(view,))

    async def _set_schedule(self, job: ScheduledJob, level: str, given: Given) -> Reply:
        if given["enabled"] is None and given["pattern"] is None:
            raise UsageError(
                f"scheduler {job.name} set {level} needs a value",
                hint='give enabled true|false, pattern "0 4 * * *", or both',
            )
        refused = why_no_pattern(given["pattern"]) if given["pattern"] is not None else ""
        if refused:
            raise UsageError(
                f"{given['pattern'][:80]!r} is no pattern: {refused}", hint='such as "0 4 * * *"'
            )
        scopes = await self._scopes(level, given)
        async with self._setting:
            before = schedule_of(self._settings.get(job.attribute, scopes).value)
            wanted = Schedule(
                cron_enabled=before.cron_enabled if given["enabled"] is None else given["enabled"],
                cron_pattern=before.cron_pattern if given["pattern"] is None else given["pattern"],
            )
            value = msgspec.to_builtins(wanted)
            await asyncio.to_thread(self._settings.set, job.attribute, scopes, value)
        running = next((one for one in self._scheduler.jobs if one.name == job.name), None)
        note = "" if running is None else running.note
        return DoneReply(note=f"{job.name}: {note}" if note else self._in_its_place(job.attribute, level))

    # ------------------------------------------------------------------- scopes

    async def _scopes(self, level: str, given: Given) -> Scopes:
        return await asyncio.to_thread(self._found_scopes, Level(level), given)

    def _found_scopes(self, level: Level, given: Given) -> Scopes:
        """Return whose setting is meant. Raises `UsageError`, `UnknownAccount`."""
        match level:
            case Level.GLOBAL:
                return Scopes()
            case Level.SERVER:
                named = given.get("server") or given.get("target_server") or "local"
                if named.casefold() not in self._names:
                    raise UsageError(
                        f"no server {named!r} here", hint=f"valid: {self._server_name}, {self._server_id}"
                    )
                return Scopes(server=self._server_id)
            case Level.COS:
                return Scopes(server=self._server_id, cos=self._entry(Kind.COS, given["cos"], "COS"))
            case Level.DOMAIN:
                domain = self._entry(Kind.DOMAIN, given["domain"], "domain")
                return Scopes(server=self._server_id, domain=domain)
            case Level.ACCOUNT:
                found = self._store.index.find_account(given["account"])
                if found is None:
                    raise UnknownAccount(
                        f"no account {given['account']!r} in the backup",
                        hint="getAvailableAccounts lists them",
                    )
                cos = self._known_entry(Kind.COS, str(found.metadata.get("cos", "")))
                return Scopes(server=self._server_id, cos=cos, account=found.item)

    def _known_entry(self, kind: Kind, name_or_id: str) -> str:
        for entry in self._store.index.entries(kind):
            name = str(entry.metadata.get("name") or "")
            if name_or_id and (name_or_id == entry.item or name_or_id.casefold() == name.casefold()):
                return entry.item
        return ""

    def _entry(self, kind: Kind, name_or_id: str, what: str) -> str:
        found = self._known_entry(kind, name_or_id)
        if found:
            return found
        names = [str(one.metadata.get("name") or one.item) for one in self._store.index.entries(kind)]
        raise UnknownEntry(
            f"no {what} {name_or_id!r} in the backup", hint=f"valid: {', '.join(names[:20]) or 'none'}"
        )


def _at(level: str, answer: Any) -> Answering:
    async def answering(given: Given, _caller: Caller) -> Reply:
        reply: Reply = await answer(level, given)
        return reply

    return answering


def _of(job: ScheduledJob, answer: Any) -> Any:
    async def answering(level: str, given: Given) -> Reply:
        reply: Reply = await answer(job, level, given)
        return reply

    return answering


def _config_reply(level: str, scopes: Scopes, found: list[Resolved]) -> ConfigReply:
    subject = scopes.account or scopes.cos or scopes.domain or scopes.server
    return ConfigReply(level=level, subject=subject, values=tuple(_attribute_view(one) for one in found))


def _attribute_view(resolved: Resolved) -> AttributeView:
    level = resolved.level
    inherited_from = ("default" if level is None else level.value) if resolved.is_inherited else ""
    return AttributeView(
        attribute=resolved.attribute.name,
        value=unrevealing(resolved.attribute, resolved.value),
        is_inherited=resolved.is_inherited,
        inherited_from=inherited_from,
        modules=(resolved.attribute.module,),
    )
