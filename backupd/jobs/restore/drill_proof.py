"""What a restore drill finds: what was put into a scratch server, compared with what histories say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from backupd.appservers.base import AppServer
from backupd.clock import Clock
from backupd.errors import AppServerRefused, BackupdError, ItemVanished
from backupd.items import AREA_OF_KIND, Area, ItemKey, Kind
from backupd.jobs.restore.memory import PassingMemory
from backupd.jobs.restore.plan import Wanted
from backupd.jobs.restore.proof import why_not_equal
from backupd.operations import Run
from backupd.states import Photograph, state_at
from backupd.store.store import Store


async def compare(
    appserver: AppServer,
    target: str,
    pairs: Sequence[tuple[Wanted, Photograph]],
    memory: PassingMemory,
    *,
    run: Run | None = None,
) -> dict[str, str]:
    """Read back what was put, and return what differs, by source item."""
    reasons: dict[str, str] = {}
    made: dict[str, str] = {}
    for one, _ in pairs[:1]:
        made = {item: new for (item, _, _), new in memory.restored(one.source.account).items()}
    there = {one.item for one in (await appserver.changes(target, None)).items}
    for one, photograph in pairs:
        if run is not None:
            run.check()
        item = one.source.item
        if item not in made or made[item] not in there:
            reasons[item] = "it is not in the scratch account after it was put there"
            continue
        try:
            reading = await appserver.read(ItemKey(target, one.kind, made[item]))
        except (ItemVanished, AppServerRefused) as error:
            reasons[item] = error.message
            continue
        if reading.content is None and photograph.digest is not None:
            reasons[item] = "it reads back without content"
            continue
        reason = await asyncio.to_thread(why_not_equal, photograph, reading)
        if reason:
            reasons[item] = reason
    return reasons


def as_histories_say(
    store: Store, items: Sequence[Wanted], moment: datetime, basis: int, reasons: dict[str, str]
) -> list[tuple[Wanted, Photograph]]:
    """Return the items with what their histories say of the moment; `reasons` gets what can't be read.

    The index told what is wanted. What was recorded since then, after `basis`, is not counted against it.
    """
    pairs = []
    for one in items:
        try:
            history = store.histories.read(one.source)
        except (BackupdError, OSError) as error:
            reasons.setdefault(one.source.item, f"its history can't be read: {error}")
            continue
        known = [state for state in history if state.transaction <= max(basis, one.transaction)]
        state = state_at(known, moment)
        if state is None or state.deleted:
            reasons.setdefault(one.source.item, "the index has it at that moment, its history has not")
            continue
        pairs.append((one, state.photograph))
    return pairs


async def folders_of(appserver: AppServer, account: str) -> set[tuple[Area, str]]:
    """Return the folders of an account, and those that its items are in."""
    found = set()
    for one in (await appserver.changes(account, None)).items:
        if one.kind is Kind.FOLDER:
            area = Area(one.metadata.get("area", Area.MAIL))
        elif one.kind in AREA_OF_KIND:
            area = AREA_OF_KIND[one.kind]
        else:
            continue
        found.add((area, str(one.metadata.get("folder", ""))))
    return found


class Noted(Run):
    """A run within the drill's: keeps the reasons by item, and tells no progress."""

    def __init__(self, run: Run, clock: Clock) -> None:
        super().__init__(clock, uuid=run.uuid)
        self._run = run
        self.reasons: dict[str, str] = {}

    def note_error(self, item: str, reason: str) -> None:
        """Keep the first reason for an item."""
        self.reasons.setdefault(item, reason)

    def check(self) -> None:
        """Raise `OperationStopped` where the drill shall stop."""
        self._run.check()
