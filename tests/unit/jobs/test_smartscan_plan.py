"""The scan's plan: what a listing and the index say together."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from backupd.appservers.base import ListedItem, Listing
from backupd.items import Area, Kind
from backupd.jobs.smartscan import plan
from backupd.states import ChangeType
from backupd.store.index_queries import KnownItem
from tests.unit.jobs.worlds import ALICE
from tests.world.clocks import START

INBOX = frozenset({(Area.MAIL, "INBOX")})


def known(item: str = "1", *, kind: Kind = Kind.MESSAGE, **more: Any) -> KnownItem:
    facts: dict[str, Any] = {
        "metadata": {"folder": "INBOX", "flags": [], "subject": "Hello"},
        "digest": "d",
        "size": 3,
        "deleted": False,
        "deleted_at": None,
        "lacking": (),
        **more,
    }
    return KnownItem(account=ALICE, kind=kind, item=item, transaction=5, first=START, last=START, **facts)


def listed(item: str = "1", *, kind: Kind = Kind.MESSAGE, fixed: bool = True, **metadata: Any) -> ListedItem:
    told = {"folder": "INBOX", "flags": [], **metadata}
    return ListedItem(kind=kind, item=item, metadata=told, content_fixed=fixed)


def planned(
    items: list[ListedItem],
    index: list[KnownItem],
    *,
    scope: frozenset[tuple[Area, str]] | None = None,
    deep: bool = False,
) -> plan.AccountPlan:
    listing = Listing(scope=scope, items=items, cursor="1")
    known_items = {item.item: item for item in index}
    return plan.plan_account(listing, known_items, account=ALICE, basis=7, moment=START, deep=deep)


def test_what_agrees_in_all_that_is_listed_is_unchanged() -> None:
    """A listing tells a part of the photograph; where that part is the same nothing is read."""
    made = planned([listed()], [known()])
    assert (made.unchanged, made.read, made.altered, made.gone) == (1, [], [], [])


def test_flags_of_a_message_are_taken_from_the_listing() -> None:
    """Where the content can't change the recorded photograph gets the listed values, unread."""
    (altered,) = planned([listed(flags=["seen"])], [known()]).altered
    assert altered.metadata == {"folder": "INBOX", "flags": ["seen"], "subject": "Hello"}
    assert (altered.type, altered.digest, altered.basis) == (ChangeType.MODIFIED, "d", 7)


def test_another_folder_is_a_move() -> None:
    """A listed folder that differs makes a moved finding."""
    (altered,) = planned([listed(folder="Later")], [known()]).altered
    assert altered.type is ChangeType.MOVED


@pytest.mark.parametrize(
    ("one", "recorded", "type_"),
    [
        (listed(), None, ChangeType.CREATED),
        (listed(), known(deleted=True, deleted_at=START), ChangeType.CREATED),
        (listed(fixed=False, flags=["x"]), known(), ChangeType.MODIFIED),
        (listed(), known(lacking=("content",)), ChangeType.MODIFIED),
        (listed(kind=Kind.CONTACT_GROUP), known(kind=Kind.CONTACT), ChangeType.CREATED),
    ],
)
def test_what_only_a_look_can_tell_is_read(
    one: ListedItem, recorded: KnownItem | None, type_: ChangeType
) -> None:
    """New items, those deleted before, changed contents, lacking ones and those of another kind are read."""
    made = planned([one], [recorded] if recorded is not None else [])
    assert [(item.listed, item.type) for item in made.read] == [(one, type_)]


def test_a_deep_scan_reads_everything_with_content() -> None:
    """With deep, what seems unchanged is read again; folders are not."""
    folder = ListedItem(kind=Kind.FOLDER, item="f", metadata={"folder": "INBOX"}, content_fixed=True)
    recorded = known("f", kind=Kind.FOLDER, metadata={"folder": "INBOX"}, digest=None)
    made = planned([listed(), folder], [known(), recorded], deep=True)
    assert [item.listed.item for item in made.read] == ["1"]
    assert made.unchanged == 1


def test_only_live_known_items_that_are_not_listed_are_gone() -> None:
    """Deleted ones and the account itself are not; neither is what another folder's listing shows."""
    index = [
        known("gone"),
        known("was", deleted=True, deleted_at=START),
        known(ALICE, kind=Kind.ACCOUNT),
        known("moved"),
    ]
    made = planned([listed("moved", folder="B")], index, scope=INBOX | {(Area.MAIL, "B")})
    assert [item.item for item in made.gone] == ["gone"]


def test_an_item_of_no_folder_is_gone_only_for_a_whole_listing() -> None:
    """A listing of some folders can't tell of an item whose folder nobody knows."""
    ghost = known("ghost", metadata={})
    assert [item.item for item in planned([], [ghost], scope=INBOX).unplaced] == ["ghost"]
    assert planned([], [ghost], scope=INBOX).gone == []
    assert [item.item for item in planned([], [ghost]).gone] == ["ghost"]
    assert plan.doubt(ghost, moment=START).basis == 0


@pytest.mark.parametrize(
    ("gone", "live", "suspicious"),
    [(9, 9, False), (10, 20, False), (11, 20, True), (10, 19, True), (0, 0, False)],
)
def test_items_are_missed_suspiciously_from_ten_on_and_above_the_half(
    gone: int, live: int, *, suspicious: bool
) -> None:
    """Few losses are never suspicious, and neither is half."""
    assert (plan.suspicion(gone, live) is not None) is suspicious


@pytest.mark.parametrize(
    ("gone", "live", "accounts", "entries"),
    [
        (0, 0, False, False),
        (1, 1, True, False),
        (1, 2, False, False),
        (2, 3, True, True),
        (2, 4, False, False),
    ],
)
def test_accounts_and_entries_are_missed_suspiciously_above_the_half(
    gone: int, live: int, *, accounts: bool, entries: bool
) -> None:
    """The only account is never believed to be gone; a single domain, COS or list is."""
    assert (plan.suspicion_of_accounts(gone, live) is not None) is accounts
    assert (plan.suspicion_of_entries(gone, live) is not None) is entries


def test_a_fingerprint_tells_photographs_apart_and_nothing_else() -> None:
    """Order of keys does not count; metadata and digest do; an incomplete or deleted one has none."""
    recorded = known()
    same = plan.fingerprint({"subject": "Hello", "flags": [], "folder": "INBOX"}, "d")
    assert plan.recorded_fingerprint(recorded) == same
    assert plan.fingerprint(recorded.metadata, "other") != same
    assert plan.recorded_fingerprint(msgspec.structs.replace(recorded, lacking=("content",))) is None
    assert plan.recorded_fingerprint(msgspec.structs.replace(recorded, deleted=True)) is None
    assert plan.recorded_fingerprint(None) is None
