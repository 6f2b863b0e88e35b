"""What of another server's backup is wanted, and how ids of there become ids of here, as pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from backupd.items import CONTENT_KINDS, Area, Kind
from backupd.jobs.restore.accounts import ADDRESSES, IDENTITY
from backupd.jobs.restore.past import folders_of, is_system
from backupd.jobs.restore.plan import Plan, merged, plan_undelete, wanted
from backupd.store.foreign import FoundItem
from backupd.store.index_queries import KnownItem

COS_ATTRIBUTES = ("cos", "default_cos", "zimbraCOSId", "zimbraDomainDefaultCOSId")
"""Attributes of accounts and domains that name a class of service, by name or id."""
LATER_WORDS = ("folder", "mountpoint", "share", "datasource", "data_source")
"""Attributes with such a word in their names refer to what is there only once the items are."""
SOURCE_WORDS = ("datasource", "data_source")
REFERENCE_CHARACTERS_MIN = 8
"""Shorter texts are not taken for ids, unless the attribute's name says that they are folders'."""
CONCURRENT_ACCOUNTS = 5
CONCURRENT_ACCOUNTS_MAX = 64


class ExternalWanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; no `accounts` and `domains` means all, `when` None the last states."""

    source_path: str
    accounts: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    when: datetime | None = None
    filter_deleted: bool = True
    skip_system_accounts: bool = True
    skip_aliases: bool = False
    skip_distribution_lists: bool = False
    skip_coses: bool = False
    skip_account_provisioning: bool = False
    skip_domain_provisioning: bool = False
    provisioning_only: bool = False
    restore_datasource: bool = True
    force: bool = False
    concurrent_accounts: int = CONCURRENT_ACCOUNTS
    file_bytes_max: int | None = None
    dry_run: bool = False


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What of a backup comes in, in the order in which it is made; `problems` are (what, why not)."""

    domains: tuple[FoundItem, ...]
    coses: tuple[FoundItem, ...]
    lists: tuple[FoundItem, ...]
    accounts: tuple[FoundItem, ...]
    problems: tuple[tuple[str, str], ...]


def name_of(found: FoundItem) -> str:
    """Return the name of an account or entry, empty where it has none."""
    name = found.state.metadata.get("name")
    return name if isinstance(name, str) else ""


def choose(
    accounts: Sequence[FoundItem], entries: Mapping[Kind, Sequence[FoundItem]], asked: ExternalWanted
) -> Choice:
    """Return what comes in of what there is."""
    problems: list[tuple[str, str]] = []
    chosen = _accounts(accounts, asked, problems)
    domains = {name_of(one).rpartition("@")[2].casefold() for one in chosen}
    named = {domain.casefold().lstrip("@") for domain in asked.domains}
    wanted_domains = domains | named if asked.accounts or asked.domains else None
    living = {
        kind: [one for one in found if name_of(one) and not (asked.filter_deleted and one.state.deleted)]
        for kind, found in entries.items()
    }
    of_domain = [
        one
        for one in living.get(Kind.DOMAIN, ())
        if wanted_domains is None or name_of(one).casefold() in wanted_domains
    ]
    here = {name_of(one).rpartition("@")[2].casefold() for one in accounts}
    here |= {name_of(one).casefold() for one in entries.get(Kind.DOMAIN, ())}
    problems += [
        (word, "there is no such domain in that backup")
        for word in asked.domains
        if word.casefold().lstrip("@") not in here
    ]
    used = {
        str(one.state.metadata[name])
        for one in (*chosen, *of_domain)
        for name in COS_ATTRIBUTES
        if one.state.metadata.get(name)
    }
    lists = [
        one
        for one in living.get(Kind.MAILING_LIST, ())
        if wanted_domains is None or name_of(one).rpartition("@")[2].casefold() in wanted_domains
    ]
    coses = [one for one in living.get(Kind.COS, ()) if {name_of(one), one.key.item} & used]
    return Choice(
        domains=() if asked.skip_domain_provisioning else tuple(of_domain),
        coses=() if asked.skip_coses else tuple(coses),
        lists=() if asked.skip_distribution_lists else tuple(lists),
        accounts=tuple(chosen),
        problems=tuple(problems),
    )


def _accounts(
    accounts: Iterable[FoundItem], asked: ExternalWanted, problems: list[tuple[str, str]]
) -> list[FoundItem]:
    given = {word.casefold(): word for word in asked.accounts}
    domains = {domain.casefold().lstrip("@") for domain in asked.domains}
    seen: dict[str, FoundItem] = {}
    known: set[str] = set()
    # Of several accounts that had an address one after the other, the living one comes first.
    for one in sorted(accounts, key=lambda found: (found.state.deleted, found.key.item)):
        name = name_of(one)
        folded = name.casefold()
        if given and not {folded, one.key.item.casefold()} & given.keys():
            continue
        known |= {folded, one.key.item.casefold()}
        user, _, domain = folded.rpartition("@")
        if not (user and domain):
            problems.append((one.key.item, f"the account's name {name[:80]!r} is no address"))
        elif _is_left_out(one, domain, domains, asked):
            continue
        elif folded in seen:
            problems.append((one.key.item, f"another account of the backup is {name} already"))
        else:
            seen[folded] = one
    problems += [
        (word, "there is no such account in that backup")
        for folded, word in given.items()
        if folded not in known
    ]
    return sorted(seen.values(), key=name_of)


def _is_left_out(one: FoundItem, domain: str, domains: set[str], asked: ExternalWanted) -> bool:
    return (
        bool(domains and domain not in domains)
        or (asked.filter_deleted and one.state.deleted)
        or (asked.skip_system_accounts and is_system(one.state.metadata))
    )


def plan_items(found: Sequence[FoundItem], asked: ExternalWanted, now: datetime) -> Plan:
    """Return what brings items in: live ones as they were, deleted ones, if wanted, as an undelete does."""
    known = [_known(one) for one in found]
    live = [one for one in known if not one.deleted]
    plan = Plan(
        folders=folders_of(live), items=tuple(wanted(one) for one in live if one.kind in CONTENT_KINDS)
    )
    if asked.filter_deleted:
        return plan
    gone = [one for one in known if one.deleted and one.kind in CONTENT_KINDS]
    return merged(plan, plan_undelete(gone, tag_moment=now))


def folders_by_place(found: Iterable[FoundItem]) -> dict[tuple[Area, str], str]:
    """Return the ids of the folders among items."""
    return {
        (Area(one.state.metadata.get("area", Area.MAIL)), one.state.metadata["folder"]): one.key.item
        for one in found
        if one.key.kind is Kind.FOLDER and not one.state.deleted and one.state.metadata.get("folder")
    }


def attributes_of(
    metadata: Mapping[str, Any], asked: ExternalWanted, ids: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an account's attributes with ids of here: those for the beginning, and those for the end."""
    left_out = IDENTITY | (ADDRESSES if asked.skip_aliases else frozenset())
    first, later = {}, {}
    for name, value in metadata.items():
        folded = name.casefold()
        if name in left_out or (
            not asked.restore_datasource and any(word in folded for word in SOURCE_WORDS)
        ):
            continue
        if any(word in folded for word in LATER_WORDS):
            later[name] = value
        else:
            first[name] = mapped(value, ids)
    return first, later


def mapped(value: Any, ids: Mapping[str, str], *, characters_min: int = REFERENCE_CHARACTERS_MIN) -> Any:
    """Return a value in which every text that is an id of there is the one of here."""
    match value:
        case str():
            return ids.get(value, value) if len(value) >= characters_min else value
        case list():
            return [mapped(each, ids, characters_min=characters_min) for each in value]
        case dict():
            return {key: mapped(each, ids, characters_min=characters_min) for key, each in value.items()}
        case _:
            return value


def _known(found: FoundItem) -> KnownItem:
    state = found.state
    return KnownItem(
        account=found.key.account,
        kind=found.key.kind,
        item=found.key.item,
        transaction=state.transaction,
        deleted=state.deleted,
        metadata=state.metadata,
        digest=state.digest,
        size=state.size,
        first=found.first,
        last=state.start,
        deleted_at=state.start if state.deleted else None,
        lacking=state.lacking,
    )
