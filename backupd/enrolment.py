"""Enrolment: which accounts are backed up at all (`backupEnabled`, of a COS or of an account).

An account that is *not enabled* is left as it is in the backup: nothing new of it is recorded, and that it is
not followed is no deletion. Two things of it are recorded all the same: that it moved to a COS that is
enabled or away from it, and that it was deleted; for without them nobody would know when it is to be followed
again, or how long to keep it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from backupd.events import Change


class Enrolment(Protocol):
    """What the recorder, scans and exports ask; cheap, from any thread."""

    def is_enabled(self, account: str, metadata: Mapping[str, Any] | None = None) -> bool:
        """Tell whether an account is backed up; `metadata` is the account's, where it is at hand."""
        ...

    def is_wanted(self, change: Change) -> bool:
        """Tell whether a change is to be recorded; changes are asked for in the order of the journal."""
        ...

    def note(self, account: str, metadata: Mapping[str, Any]) -> None:
        """Take in what an account's attributes are now: its COS may be another one."""
        ...


class Everyone:
    """Backs everything up."""

    def is_enabled(self, account: str, metadata: Mapping[str, Any] | None = None) -> bool:  # noqa: ARG002 - Enrolment
        """Tell that it is."""
        return True

    def is_wanted(self, change: Change) -> bool:  # noqa: ARG002 - Enrolment
        """Tell that it is."""
        return True

    def note(self, account: str, metadata: Mapping[str, Any]) -> None:
        """Need not know."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say. `cos` has ids and names of those not enabled; an account's own setting wins."""

    cos: frozenset[str] = frozenset()
    accounts: Mapping[str, bool] = {}

    @property
    def restricts(self) -> bool:
        """Tell whether any account may be left out."""
        return bool(self.cos) or not all(self.accounts.values())

    def enables(self, account: str, cos: str) -> bool:
        """Tell whether an account of this COS (id or name, or none) is backed up."""
        return self.accounts.get(account, cos not in self.cos)
