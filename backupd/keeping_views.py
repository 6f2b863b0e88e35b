"""Views of what keeps a backup true: holds, suspensions, blobless mode, coherency, as replies carry them."""

from __future__ import annotations

from datetime import datetime

import msgspec


class HoldView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an account is under legal hold, since when and by whom; `of_all`: because all accounts are."""

    id: str
    name: str
    legal_hold: bool
    deleted: bool = False
    since: datetime | None = None
    by: str = ""
    of_all: bool = False


class SuspensionView(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose retention was suspended: `lost` of `total` (`noun`) went within `hours`."""

    id: str
    name: str
    since: datetime
    lost: int
    total: int
    noun: str = "items"
    hours: int
    sentence: str = ""
    lifted: datetime | None = None
    lifted_by: str = ""


class BloblessView(msgspec.Struct, frozen=True, kw_only=True):
    """Blobless mode: `active`, or wanted and in the way is `trouble`, or off.

    `not_fetched` contents are held by the AppServer alone although the mode is off.
    """

    active: bool = False
    trouble: str = ""
    not_fetched: int = 0


class CoherencyCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often one code was found in a coherency check, and what it means (docs/coherency.md)."""

    code: str
    count: int
    severity: str
    meaning: str
    cure: str


class FindingView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finding of a coherency check. `left` says why a repair did not mend it."""

    code: str
    severity: str
    path: str
    detail: str = ""
    account: str = ""
    items: tuple[str, ...] = ()
    digest: str = ""
    left: str = ""


class CoherencyView(msgspec.Struct, frozen=True, kw_only=True):
    """What coherency checks found that nothing has mended: numbers by code, and the same in words.

    `dangers` are those by which something can't be restored. `share` is the part of the present pass that is
    done, `last_whole` when one last came to its end.
    """

    findings: int = 0
    dangers: int = 0
    lost: int = 0
    words: str = ""
    counts: dict[str, int] = {}
    last_run: datetime | None = None
    last_whole: datetime | None = None
    share: float = 0.0
