"""Replies about accounts and items, and what all replies have."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from backupd.keeping_views import (
    HoldView,
    SuspensionView,
)
from backupd.views import (
    AccountView,
    ChangedView,
    DomainView,
    FolderView,
    FoundItem,
    StateView,
    TurnView,
)

CONTROL_VERSION = 1


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply"):
    """What every reply has: the version of this interface."""

    version: int = CONTROL_VERSION


class ItemReply(Answer, frozen=True, kw_only=True, tag="item"):
    """An item with the states that were asked for, oldest first."""

    account: str
    account_name: str = ""
    item: str
    kind: str
    states: tuple[StateView, ...]


class BlobReply(Answer, frozen=True, kw_only=True, tag="blob"):
    """Where the content that was asked for can be had: `GET /v1/blobs/<digest>`."""

    digest: str
    size: int


class AccountReply(Answer, frozen=True, kw_only=True, tag="account"):
    """An account's own states that were asked for, oldest first, and its statistics where asked for.

    `protections` are sentences that say why retention does not act on it.
    """

    account: str
    account_name: str = ""
    states: tuple[StateView, ...]
    statistics: dict[str, Any] | None = None
    protections: tuple[str, ...] = ()
    not_enabled_since: datetime | None = None


class HoldsReply(Answer, frozen=True, kw_only=True, tag="holds"):
    """Whether accounts are under legal hold; `all_since` and `all_by` where all of them are."""

    accounts: tuple[HoldView, ...]
    all_since: datetime | None = None
    all_by: str = ""
    note: str = ""


class SuspensionsReply(Answer, frozen=True, kw_only=True, tag="suspensions"):
    """Accounts whose retention was suspended because they lost an unusual share of their items."""

    accounts: tuple[SuspensionView, ...]


class AccountsReply(Answer, frozen=True, kw_only=True, tag="accounts"):
    """The accounts that the backup held at a moment (null: now), by address."""

    date: datetime | None = None
    accounts: tuple[AccountView, ...]


class DomainsReply(Answer, frozen=True, kw_only=True, tag="domains"):
    """The domains that the backup held at a moment (null: now), by name."""

    date: datetime | None = None
    domains: tuple[DomainView, ...]


class SearchReply(Answer, frozen=True, kw_only=True, tag="search"):
    """The items found; `more` tells that the limit cut the list."""

    account: str
    account_name: str = ""
    items: tuple[FoundItem, ...]
    more: bool = False


class HistoryReply(Answer, frozen=True, kw_only=True, tag="history"):
    """An item's life: what each of its states brought, oldest first."""

    account: str
    account_name: str = ""
    item: str
    kind: str
    turns: tuple[TurnView, ...]


class DiffReply(Answer, frozen=True, kw_only=True, tag="diff"):
    """What differs in an account between two moments: counts by group, then items up to the limit."""

    account: str
    account_name: str = ""
    start: datetime
    end: datetime
    counts: dict[str, int]
    items: tuple[ChangedView, ...]
    items_total: int = 0


class FoldersReply(Answer, frozen=True, kw_only=True, tag="folders"):
    """An account's folders as of a moment (null: now), each after those above it."""

    account: str
    account_name: str = ""
    date: datetime | None = None
    deleted: bool = False
    folders: tuple[FolderView, ...]
