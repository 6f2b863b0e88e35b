"""Many items at a time: what some AppServers do quicker for many at once, and how the others do it.

An AppServer that has `put_many` or `read_many` is asked for them; for any other one item is put or read after
the other. Either way each item has its own end: an error of one never fails another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from backupd.appservers.base import AppServer, Content, Reading
from backupd.errors import BackupdError
from backupd.items import ItemKey, Kind
from backupd.states import Photograph

Judged = TypeVar("Judged")


class NewItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item to be put. Opening or reading its content may raise: then it is not put."""

    kind: Kind
    photograph: Photograph
    content: Content


@runtime_checkable
class PutsMany(Protocol):
    """An AppServer that makes many new items durable together."""

    async def put_many(self, account: str, items: Sequence[NewItem]) -> list[str | BackupdError]:
        """Put items; return for each its new id, or why it was not put: then nothing of it is left there.

        Raises `AppServerUnavailable` or `AppServerRefused` where nothing at all was put.
        """
        ...


@runtime_checkable
class ReadsMany(Protocol):
    """An AppServer that reads many items of one account together."""

    async def read_many(
        self, account: str, keys: Sequence[ItemKey], judge: Callable[[ItemKey, Reading], Judged]
    ) -> list[Judged | BackupdError]:
        """Read items; return what `judge`, which may block, says of each, or why it could not be read.

        What a message's headers tell may be left out of its reading: they are part of the content.
        """
        ...


async def put_many(server: AppServer, account: str, items: Sequence[NewItem]) -> list[str | BackupdError]:
    """Put items into an account as `PutsMany.put_many` does, whatever the AppServer can."""
    if isinstance(server, PutsMany):
        return await server.put_many(account, items)
    return [await _put(server, account, one) for one in items]


async def _put(server: AppServer, account: str, one: NewItem) -> str | BackupdError:
    try:
        with await asyncio.to_thread(one.content.open) as content:
            return await server.put(account, one.kind, one.photograph, content)
    except BackupdError as error:
        return error


async def read_many(
    server: AppServer, account: str, keys: Sequence[ItemKey], judge: Callable[[ItemKey, Reading], Judged]
) -> list[Judged | BackupdError]:
    """Read items of an account as `ReadsMany.read_many` does, whatever the AppServer can."""
    if isinstance(server, ReadsMany):
        return await server.read_many(account, keys, judge)
    return [await _read(server, key, judge) for key in keys]


async def _read(
    server: AppServer, key: ItemKey, judge: Callable[[ItemKey, Reading], Judged]
) -> Judged | BackupdError:
    try:
        return await asyncio.to_thread(judge, key, await server.read(key))
    except BackupdError as error:
        return error
