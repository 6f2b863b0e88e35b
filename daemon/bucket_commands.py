"""Buckets: the answers of `core doCreateBucket` and its like, over the attribute `s3BucketConfigurations`.

What uses a bucket is the volume that is set (`backupArchivingStore`) and every operation that waits or runs
and names it. A bucket in use is not forgotten and not changed in a way that would lose what lies in it; its
credentials and address can always be changed, for a store that moved or revoked them must be reachable again.
Secrets are shown to those who may change, where they ask for it, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from backupd import buckets, volume_choice
from backupd.attributes import Scopes, Settings
from backupd.buckets import Bucket, StoreType
from backupd.control import BucketsReply, DoctorReply, DoneReply, Reply
from backupd.errors import ConfigError, UsageError
from backupd.jobs.doctor.verdict import worst
from backupd.operations import EXIT_STATUS_OF
from backupd.secret import everybody_may_read, read_secret
from backupd.views import CheckView
from backupd.volume_choice import BucketChoice
from backupd.volume_views import BucketUseView, BucketView
from daemon.answering import Answering, Given, Guard
from daemon.operations_queue import OperationsQueue
from daemon.peers import Caller, Forbidden

Probe = Callable[[Bucket], Sequence[CheckView]]
"""Tries a bucket out; blocks, within bounds. Raises `BackupdError`."""


class BucketCommands:
    """Makes, changes, forgets, lists and tries out bucket configurations.

    `setting` is the lock under which attributes are changed, one at a time.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        setting: asyncio.Lock,
        queue: OperationsQueue,
        server_id: str,
        server_name: str,
        probe: Probe,
    ) -> None:
        self._settings = settings
        self._setting = setting
        self._queue = queue
        self._server_id = server_id
        self._server_name = server_name
        self._probe = probe

    def table(self) -> Mapping[str, Answering]:
        """Return what answers each command, by its title."""
        table: dict[str, Answering] = {
            "core listBuckets": self._list,
            "core testS3Connection": self._test,
        }
        for store in StoreType:
            table[f"core doCreateBucket {store.value}"] = partial(self._create, store)
            table[f"core doUpdateBucket {store.value}"] = partial(self._update, store)
            table[f"core doDeleteBucket {store.value}"] = partial(self._delete, store)
        return table

    def guards(self) -> Mapping[str, Guard]:
        """Return what judges values that come by `config set` and `config unset`, by attribute."""
        return {buckets.ATTRIBUTE: self._judge_buckets, volume_choice.ATTRIBUTE: _refuse_volume}

    def buckets(self) -> tuple[Bucket, ...]:
        """Return every bucket configuration."""
        return buckets.parse(self._settings.get(buckets.ATTRIBUTE).value)

    # ---------------------------------------------------------------- answers

    async def _create(self, store: StoreType, given: Given, _caller: Caller) -> Reply:
        bucket = buckets.made(str(uuid4()), store, given)
        async with self._setting:
            await self._keep((*self.buckets(), bucket))
        note = f"try it out: backupctl core testS3Connection {bucket.uuid}"
        doubt = await asyncio.to_thread(_doubts_about_secret, bucket)
        note = "; ".join(filter(None, (note, doubt)))
        return BucketsReply(buckets=(self._view(bucket),), note=note)

    async def _update(self, store: StoreType, given: Given, _caller: Caller) -> Reply:
        fields = {name: value for name, value in given.items() if name != "bucket_configuration_id"}
        if all(value is None for value in fields.values()):
            raise UsageError("nothing is to be changed", hint=f"valid: {', '.join(fields)}")
        async with self._setting:
            known = self.buckets()
            before = _of_type(buckets.bucket_with(known, given["bucket_configuration_id"]), store)
            after = buckets.changed(before, fields)
            self._check_change(before, after)
            await self._keep(tuple(after if one is before else one for one in known))
        used = next(self._uses(after.uuid), "")
        note = f"it is used by {used}, which is opened anew with it" if used else ""
        doubt = await asyncio.to_thread(_doubts_about_secret, after)
        note = "; ".join(filter(None, (note, doubt)))
        return BucketsReply(buckets=(self._view(after),), note=note)

    async def _delete(self, store: StoreType, given: Given, _caller: Caller) -> Reply:
        async with self._setting:
            known = self.buckets()
            bucket = _of_type(buckets.bucket_with(known, given["bucket_configuration_id"]), store)
            self._check_unused(bucket)
            await self._keep(tuple(one for one in known if one is not bucket))
        return DoneReply(note=f"what is in the bucket {bucket.bucket_name} stays there")

    async def _list(self, given: Given, caller: Caller) -> Reply:
        shows = bool(given["show_secrets"])
        if shows and not caller.may_change:
            raise Forbidden(
                f"user {caller.name} may read but not see secrets",
                hint="show_secrets true is for root and the service's user",
            )
        wanted = given["type"]
        return BucketsReply(
            buckets=tuple(
                self._view(one, shows_secret=shows)
                for one in self.buckets()
                if wanted in ("all", one.store_type.value)
            )
        )

    async def _test(self, given: Given, _caller: Caller) -> Reply:
        bucket = buckets.bucket_with(self.buckets(), given["bucket_configuration_id"])
        if given["storeType"] is not None:
            _of_type(bucket, StoreType(given["storeType"]))
        checks = tuple(await asyncio.to_thread(self._probe, bucket))
        return DoctorReply(outcome=worst(checks), checks=checks)

    # ------------------------------------------------------------------- rules

    def _choice(self) -> volume_choice.VolumeChoice:
        resolved = self._settings.get(volume_choice.ATTRIBUTE, Scopes(server=self._server_id))
        return volume_choice.parse(resolved.value)

    def _uses(self, uuid: str) -> Iterator[str]:
        """Yield what uses a bucket, in words."""
        choice = self._choice()
        if isinstance(choice, BucketChoice) and choice.bucket_id == uuid:
            yield "the external volume"
        for operation in self._queue.operations():
            if operation.status not in EXIT_STATUS_OF and uuid in operation.parameters.values():
                yield f"the operation {operation.type} {operation.uuid}"

    def _check_unused(self, bucket: Bucket) -> None:
        used = next(self._uses(bucket.uuid), None)
        if used is not None:
            raise UsageError(
                f"the bucket {bucket.label} ({bucket.uuid}) is used by {used}",
                hint="set another volume first: backupctl backup setBackupVolume Default start, "
                "or migrate to one; an operation can be stopped",
            )

    def _check_change(self, before: Bucket, after: Bucket) -> None:
        moved = buckets.moved_fields(before, after)
        used = next(self._uses(before.uuid), None) if moved else None
        if used is not None:
            raise UsageError(
                f"{' and '.join(moved)} of a bucket that is used by {used} can't be changed",
                hint="what lies there would not be found: make another bucket known and migrate to it",
            )

    def _judge_buckets(self, value: object) -> object:
        known = self.buckets()
        after = buckets.with_secrets_of(buckets.parse(value if value is not None else []), known)
        by_uuid = {one.uuid: one for one in after}
        for bucket in known:
            if bucket.uuid in by_uuid:
                self._check_change(bucket, by_uuid[bucket.uuid])
            else:
                self._check_unused(bucket)
        return buckets.encode(after)

    async def _keep(self, wanted: Sequence[Bucket]) -> None:
        buckets.check_unlike(wanted)
        value = buckets.encode(wanted)
        await asyncio.to_thread(self._settings.set, buckets.ATTRIBUTE, Scopes(), value)

    def _view(self, bucket: Bucket, *, shows_secret: bool = False) -> BucketView:
        choice = self._choice()
        used = isinstance(choice, BucketChoice) and choice.bucket_id == bucket.uuid
        shown: dict[str, Any] = {
            name: str(getattr(bucket, name))
            for name in buckets.FIELDS
            if name not in ("secret", "path_style")
        }
        secret = bucket.secret.revealed if shows_secret and bucket.secret is not None else ""
        path = ""
        if used and isinstance(choice, BucketChoice):
            path = volume_choice.destination(choice, bucket, self._server_id)
        return BucketView(
            **shown,
            protocol=bucket.protocol,
            secret=secret,
            path_style=bucket.path_style,
            destination_path=path,
            backup_usage=(BucketUseView(server=self._server_name),) if used else (),
        )


def _of_type(bucket: Bucket, store: StoreType) -> Bucket:
    if bucket.store_type is not store:
        raise UsageError(
            f"the bucket {bucket.label} ({bucket.uuid}) is of type {bucket.store_type.value}",
            hint=f"say {bucket.store_type.value} instead of {store.value}",
        )
    return bucket


def _refuse_volume(_value: object) -> object:
    raise UsageError(
        f"{volume_choice.ATTRIBUTE} is changed by the commands for volumes alone",
        hint="valid: backup setBackupVolume, updateBackupVolume, migrateBackupVolume",
    )


def _doubts_about_secret(bucket: Bucket) -> str:
    """Return what is wrong with the file of a bucket's secret, empty where nothing is; blocks."""
    if not bucket.secret_file:
        return ""
    path = Path(bucket.secret_file)
    try:
        read_secret(path)
    except ConfigError as error:
        return error.message
    return f"everybody may read {path}: chmod o-rwx it" if everybody_may_read(path) else ""
