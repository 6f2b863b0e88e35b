"""Holdings: the accounts and domains that a backup holds or held at a moment, and its map file."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from backupd.clock import parse_moment
from backupd.control import MapReply
from backupd.decoding import converted, decoded
from backupd.errors import BackupdError, UnknownAccount, UnknownItem, UsageError
from backupd.items import ItemKey, Kind
from backupd.jobs.restore import choose_state
from backupd.jobs.restore.past import is_system
from backupd.replies import AccountReply, AccountsReply, DomainsReply
from backupd.states import state_at
from backupd.store.index_queries import KnownItem
from backupd.store.protections import Protections
from backupd.store.store import Store
from backupd.views import AccountView, DomainView
from daemon import views
from daemon.answering import Given
from daemon.enrolling import kept_left_out

STATUS_MARKS = ("status", "zimbraAccountStatus")
MAP_BYTES_MAX = 64 << 20
_NEWEST = frozenset({"most_recent", "last"})
_OLDEST = frozenset({"least_recent", "first"})


class UnknownMap(BackupdError):
    """There is no such map file, or it can't be read."""

    exit_status = 66


def account(store: Store, given: Given) -> AccountReply:
    """Return an account's own states: the newest, the oldest, all, or the one at a moment."""
    known = store.index.find_account(given["account"])
    if known is None:
        raise UnknownAccount(
            f"no account {given['account']!r} in the backup", hint="getAvailableAccounts lists them"
        )
    history = store.histories.read(known.key)
    if not history:
        raise UnknownItem(f"account {given['account']!r} has no history")
    states = views.state_views(history)
    left_out = kept_left_out(store.ledger).get(known.item)
    date = given["date"]
    if date in _NEWEST:
        states = states[-1:]
    elif date in _OLDEST:
        states = states[:1]
    elif date != "all":
        state = choose_state(history, parse_moment(date), what=f"account {given['account']!r}")
        states = (states[list(history).index(state)],)
    return AccountReply(
        account=known.item,
        account_name=str(known.metadata.get("name", "")),
        states=states,
        statistics=_statistics(store, known.item) if given["backupstats"] else None,
        protections=tuple(one.sentence for one in Protections(store.ledger).why(known.item)),
        not_enabled_since=None if left_out is None else left_out.since,
    )


def accounts(store: Store, given: Given) -> AccountsReply:
    """Return the accounts of a moment that are not to be hidden, by address."""
    when = _moment(given["date"])
    domains = {domain.casefold().lstrip("@") for domain in given["domains"] or ()}
    found = []
    protected, left_out = Protections(store.ledger).now_in_force(), kept_left_out(store.ledger)
    for known in store.index.accounts(deleted=None):
        then = _known_then(store, known, when)
        if then is None:
            continue
        view = msgspec.structs.replace(
            _account_view(known, then),
            legal_hold=protected.is_held(known.item),
            retention_suspended=known.item in protected.suspensions,
            enabled=known.item not in left_out,
        )
        hidden = (
            (domains and view.domain.casefold() not in domains)
            or (given["hide_deleted"] and view.deleted)
            or (given["hide_system_accounts"] and view.is_system)
            or (given["hide_existing_accounts"] and view.exists)
        )
        if not hidden:
            found.append(view)
    return AccountsReply(date=when, accounts=tuple(found))


def domains(store: Store, given: Given) -> DomainsReply:
    """Return the domains of a moment with how many accounts they had then, by name."""
    when = _moment(given["date"])
    counted: Counter[str] = Counter()
    for known in store.index.accounts(deleted=None):
        then = _known_then(store, known, when)
        if then is not None and not then[0]:
            counted[_domain_of(str(then[1].get("name", ""))).casefold()] += 1
    found = []
    for known in store.index.entries(Kind.DOMAIN, deleted=None):
        then = _known_then(store, known, when)
        if then is not None:
            deleted, metadata = then
            name = str(metadata.get("name") or known.item)
            found.append(
                DomainView(id=known.item, name=name, deleted=deleted, accounts=counted[name.casefold()])
            )
    return DomainsReply(date=when, domains=tuple(sorted(found, key=lambda domain: domain.name)))


def map_file(path: Path) -> MapReply:
    """Return what a map file says; entries beside the identity are those of an import. Blocks."""
    if not path.name.startswith("map_"):
        raise UsageError(
            f"{path.name[:80]!r} is no map file",
            hint="a map file is called map_<server id>, see docs/formats.md",
        )
    try:
        with path.open("rb") as file:
            content = decoded(file.read(MAP_BYTES_MAX), dict[str, Any])
        created = content.pop("since", None)
        return MapReply(
            path=str(path),
            server_id=str(content.pop("server")),
            server_name=str(content.pop("name", "")),
            format_version=int(content.pop("format", 1)),
            created=None if created is None else converted(created, datetime),
            imported_from=str(content.pop("imported_from", None) or ""),
            entries={str(key): str(value) for key, value in content.items()},
        )
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, KeyError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no map of a Backup Path: {error}"
        raise UnknownMap(
            f"{path} can't be read: {reason}", hint="getMap alone reads the daemon's own"
        ) from error


def _moment(date: str) -> datetime | None:
    return None if date == "last" else parse_moment(date)


def _known_then(store: Store, known: KnownItem, when: datetime | None) -> tuple[bool, dict[str, Any]] | None:
    """Return whether an item was deleted at a moment, and its attributes; None where it was not there yet."""
    if when is None or known.last <= when:
        return known.deleted, known.metadata
    if known.first > when:
        return None
    key = ItemKey(known.account, known.kind, known.item)
    state = state_at(store.histories.read(key), when)
    return None if state is None else (state.deleted, state.metadata)


def _account_view(known: KnownItem, then: tuple[bool, dict[str, Any]]) -> AccountView:
    deleted, metadata = then
    name = str(metadata.get("name", known.item))
    status = next((str(metadata[mark]) for mark in STATUS_MARKS if metadata.get(mark)), "active")
    return AccountView(
        id=known.item,
        name=name,
        status="deleted" if deleted else status,
        deleted=deleted,
        exists=not known.deleted,
        is_system=is_system(metadata),
        domain=_domain_of(name),
        cos=str(metadata.get("cos", "")),
        created=known.first,
        deleted_at=known.deleted_at if deleted else None,
    )


def _domain_of(address: str) -> str:
    return address.rpartition("@")[2] if "@" in address else ""


def _statistics(store: Store, account_id: str) -> dict[str, Any]:
    """Return what scans keep of an account, and how much there is of it by kind."""
    kept = msgspec.to_builtins(store.statistics.account(account_id))
    kept.pop("cursor", None)  # the AppServer's own text, long and of no use to anybody else
    live, gone = store.index.account_counts(account_id)
    return {**kept, "items": live, "deleted": gone}
