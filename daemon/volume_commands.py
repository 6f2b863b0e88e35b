"""Answers that choose the external volume: at once, without touching the one before, which may hang.

A choice that counts ends this lifetime and begins the next one with the other volume, as another Backup Path
does. Contents that rest only on the volume that was left are listed by an operation that is queued with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

from backupd import volume_choice
from backupd.attributes import Scopes, Settings
from backupd.buckets import StoreType
from backupd.clock import Clock
from backupd.control import DoneReply, OperationReply, Reply
from backupd.errors import UsageError
from backupd.operations import OperationStatus
from backupd.store.ledger import Ledger
from backupd.store.outside.reading import BlobsOutside
from backupd.store.store import Store
from backupd.volume_choice import BucketChoice, DefaultChoice, VolumeChoice, described
from backupd.volumes.retrying import RetryBudget
from daemon import views
from daemon.answering import Answering, Given
from daemon.external_volume import STORE, ExternalVolumes
from daemon.operations_queue import OperationsQueue
from daemon.own_thread import in_own_thread
from daemon.peers import Caller
from daemon.volume_works import (
    CREDENTIALS,
    MIGRATION,
    VolumeWorks,
    bucket_choice,
    claimed,
    described_bucket,
)

CLAIM_SECONDS = 60.0
"""How long a place may take to be looked at before it is chosen."""
CLAIM_BUDGET = RetryBudget(attempts=3, seconds=20.0)
"""Somebody waits for the answer: a store that is away is not asked for minutes."""
SECRETS = ("access_key", "secret", "secret_file", "bucket_name", "region", "url", "prefix")
LISTING = "doListLostContents"
WORKING = frozenset({OperationStatus.RUNNING, OperationStatus.STOPPING})
RETRIEVAL = "retrieveMetadataFromArchive S3"


class VolumeSetting:
    """Keeps the choice: only commands that looked at the place may change it, `config set` may not."""

    def __init__(self, ledger: Ledger, server_id: str) -> None:
        self._ledger = ledger
        self._scopes = Scopes(server=server_id)
        self._changing = threading.local()

    def keep(self, value: object) -> None:
        """Store the attribute's value, None to forget it. Raises `UsageError` where nobody looked."""
        if not getattr(self._changing, "is_allowed", False):
            raise UsageError(
                f"{STORE} is not set by config",
                hint="backup setBackupVolume chooses a volume, migrateBackupVolume moves what is kept",
            )
        level = self._scopes.level.value
        if value is None:
            self._ledger.unset_attribute(level, self._scopes.server, STORE)
        else:
            self._ledger.set_attribute(level, self._scopes.server, STORE, value)

    def choose(self, settings: Settings, choice: VolumeChoice) -> None:
        """Make a choice the one in force; blocks."""
        self._changing.is_allowed = True
        try:
            settings.set(STORE, self._scopes, volume_choice.encode(choice))
        finally:
            self._changing.is_allowed = False


class VolumeCommands:
    """Answers `setBackupVolume`, `updateBackupVolume`, and queues retrievals with their credentials."""

    def __init__(
        self,
        *,
        store: Store,
        volumes: ExternalVolumes,
        works: VolumeWorks,
        queue: OperationsQueue,
        choose: Callable[[VolumeChoice], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._volumes = volumes
        self._works = works
        self._queue = queue
        self._choose = choose
        self._clock = clock

    def table(self) -> Mapping[str, Answering]:
        """Return what answers each command, by its title."""
        table: dict[str, Answering] = {
            "backup setBackupVolume Default": self._set_default,
            "backup setBackupVolume Local": self._set_local,
            "backup updateBackupVolume S3": self._update,
            f"backup {RETRIEVAL}": self._retrieve,
        }
        for kind in StoreType:
            table[f"backup setBackupVolume {kind.value}"] = self._setter(kind)
        return table

    async def _set_default(self, _given: Given, caller: Caller) -> Reply:
        return await self._set(DefaultChoice(), caller)

    async def _set_local(self, given: Given, caller: Caller) -> Reply:
        choice = volume_choice.local_choice(given["path"], encrypted=self._volumes.encrypts)
        return await self._set(choice, caller)

    def _setter(self, kind: StoreType) -> Callable[[Given, Caller], Awaitable[Reply]]:
        async def answering(given: Given, caller: Caller) -> Reply:
            return await self._set(bucket_choice(kind, given, encrypted=self._volumes.encrypts), caller)

        return answering

    async def _set(self, choice: VolumeChoice, caller: Caller) -> Reply:
        """Look at the place, then choose it; the place before is not asked for anything."""
        self._refuse_beside_migration()
        before = await asyncio.to_thread(self._before)
        if not isinstance(choice, DefaultChoice):
            choice = await self._claimed(choice)
        if before == choice:
            if isinstance(outside := self._store.blobs.outside, BlobsOutside):
                outside.rebuild_due = True
            return DoneReply(
                note=f"{described(choice)} is in use already; what rests there is looked at anew"
            )
        left = await asyncio.to_thread(self._left_behind)
        self._refuse_beside_migration()
        # Queued first, and left waiting: the lifetime ends with the choice, and the next one works on it.
        if left:
            self._queue.hold(held=True)
            await self._queue.submit(LISTING, {"action": "start"}, started_by=caller.name, once=True)
        await asyncio.to_thread(self._choose, choice)
        note = f"from now on: {described(choice)}"
        if left:
            note += (
                f"; {left:,} contents rest only on {described(before)} and can't be read until it is chosen "
                f"again: {LISTING} lists them, a deep SmartScan stores again what the AppServer still has"
            )
        return DoneReply(note=note)

    def _refuse_beside_migration(self) -> None:
        """Raise `UsageError` while a migration works: at its end it would choose its own volume after all."""
        for operation in self._queue.operations():
            if operation.type.startswith(MIGRATION) and operation.status in WORKING:
                raise UsageError(
                    f"{operation.type} is under way",
                    hint=f"wait for its end, or stop it first: backup doStopOperation {operation.uuid}",
                )

    def _before(self) -> VolumeChoice:
        try:
            return self._volumes.choice()
        except UsageError:
            return DefaultChoice()

    async def _claimed(self, choice: VolumeChoice) -> VolumeChoice:
        def claim() -> VolumeChoice:
            opened = self._volumes.open(choice, server_id=self._store.identity.server, budget=CLAIM_BUDGET)
            assert opened is not None
            try:
                return claimed(self._store, opened, choice, self._clock, self._volumes.mail_root)
            finally:
                opened.close()

        try:
            async with asyncio.timeout(CLAIM_SECONDS):
                return await in_own_thread(claim, name="volume claim")
        except TimeoutError:
            raise UsageError(
                f"{described(choice)} did not answer within {CLAIM_SECONDS:.0f} s",
                hint="core testS3Connection tells more",
            ) from None

    def _left_behind(self) -> int:
        """Return how many contents are only on the volume in use; quick."""
        outside = self._store.blobs.outside
        return 0 if outside is None else outside.only_outside()

    async def _update(self, given: Given, _caller: Caller) -> Reply:
        self._refuse_beside_migration()
        current = self._before()
        if not isinstance(current, BucketChoice):
            raise UsageError("no bucket is in use", hint="backup setBackupVolume S3 chooses one")
        threshold = given["infrequent_access_threshold"]
        infrequent, tiering = given["use_infrequent_access"], given["use_intelligent_tiering"]
        changed = volume_choice.bucket_choice(
            current.store_type.value,
            current.bucket_id,
            volume_prefix=current.volume_prefix,
            use_infrequent_access=current.use_infrequent_access if infrequent is None else infrequent,
            infrequent_access_threshold=(
                current.infrequent_access_threshold_bytes if threshold is None else threshold
            ),
            use_intelligent_tiering=current.use_intelligent_tiering if tiering is None else tiering,
            encrypted=current.encrypted,
        )
        if changed == current:
            raise UsageError(
                "nothing to change was given",
                hint="use_infrequent_access, infrequent_access_threshold, use_intelligent_tiering",
            )
        await asyncio.to_thread(self._choose, changed)
        return DoneReply(note="new objects are kept so; those that are there stay as they are")

    async def _retrieve(self, given: Given, caller: Caller) -> Reply:
        """Queue a retrieval; what must not be kept or shown stays in memory."""
        bucket = described_bucket(given)
        parameters: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None and name not in SECRETS
        }
        if bucket is not None:
            token = str(uuid4())
            self._works.given_buckets[token] = bucket
            parameters[CREDENTIALS] = token
        operation = await self._queue.submit(RETRIEVAL, parameters, started_by=caller.name)
        return OperationReply(operation=views.operation_view(operation))
