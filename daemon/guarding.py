"""Guarding: the mass-deletion guard with its limits from the settings, of the server, a COS or an account."""

from __future__ import annotations

from backupd.attribute_table import Level
from backupd.attributes import Scopes, Settings
from backupd.items import Kind
from backupd.jobs.guard import Guard, Limits
from backupd.store.store import Store

SHARE = "backupMassDeletionShare"
HOURS = "backupMassDeletionWindowHours"
MINIMUM = "backupMassDeletionMinimum"
ATTRIBUTES = frozenset({SHARE, HOURS, MINIMUM})


class SetLimits:
    """Reads limits; any thread may ask, the index is asked only where a COS has limits of its own."""

    def __init__(self, store: Store, settings: Settings, server_id: str) -> None:
        self._store = store
        self._settings = settings
        self._server_id = server_id

    def of(self, account: str) -> Limits:
        """Return the limits of an account (empty: of the server)."""
        has_cos = any(level is Level.COS for name in ATTRIBUTES for level, _ in self._settings.stored(name))
        cos = self._cos_of(account) if account and has_cos else ""
        scopes = Scopes(server=self._server_id, cos=cos, account=account)

        def value(name: str) -> int:
            return int(str(self._settings.get(name, scopes).value))

        return Limits(share=value(SHARE), hours=value(HOURS), minimum=value(MINIMUM))

    def least(self) -> Limits:
        """Return the smallest minimum and the longest window that any account may have."""
        server = self.of("")
        minimums = [int(str(one)) for one in self._settings.stored(MINIMUM).values()]
        hours = [int(str(one)) for one in self._settings.stored(HOURS).values()]
        return Limits(
            share=server.share, hours=max([server.hours, *hours]), minimum=min([server.minimum, *minimums])
        )

    def _cos_of(self, account: str) -> str:
        known = self._store.index.item(account, account, Kind.ACCOUNT)
        named = "" if known is None else str(known.metadata.get("cos") or "")
        for entry in self._store.index.entries(Kind.COS) if named else ():
            if named in (entry.item, entry.metadata.get("name")):
                return entry.item
        return ""


def make_guard(store: Store, settings: Settings, server_id: str) -> Guard:
    """Make the guard of a server."""
    limits = SetLimits(store, settings, server_id)
    return Guard(store, limits_of=limits.of, least=limits.least)
