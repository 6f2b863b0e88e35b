"""Metadata outside: names and plans, as values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.jobs.metadata import names, plan
from backupd.jobs.metadata.names import RangeObject, SummaryObject
from backupd.jobs.metadata.plan import AccountMark
from backupd.volumes.base import check_name

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def archived(account: str, through: int, mark: str = "0" * 16, days_ago: int = 0) -> str:
    return names.archive_name(account, through, mark, NOW - timedelta(days=days_ago))


def ranges(*pairs: tuple[int, int]) -> list[RangeObject]:
    return names.range_objects(names.journal_name(*pair) for pair in pairs)


@given(st.text(min_size=1, max_size=300))
def test_every_account_has_a_folder_of_its_own(account: str) -> None:
    """Any id becomes a name that a volume takes, and two ids never share one."""
    name = archived(account, 7)
    check_name(name)
    (found,) = names.archive_objects([name, "accounts/x/other", "items/packs/1.pack"])
    assert found.folder == names.account_folder(account)
    assert names.account_folder(account) != names.account_folder(account + "~")


def test_names_tell_what_they_hold() -> None:
    """What is needed of an object stands in its name; `#` of an archive comes back."""
    assert ranges((5, 9))[0].last == 9
    (summary,) = names.summary_objects([names.summary_name(8, NOW)])
    assert (summary.through, summary.moment) == (8, NOW)
    file_name = "configuration_24_11_26#12_00_00.tar.gz"
    outside = names.server_archive_name(file_name)
    check_name(outside)
    assert names.server_archives([outside, names.states_name(1, 2), "server/x"]) == {file_name: outside}


def test_only_changed_accounts_are_archived() -> None:
    """An account whose newest archive holds what the index says is left alone."""
    same, other, new = AccountMark("a", 5, 2, 3), AccountMark("b", 9, 1, 1), AccountMark("c", 7, 1, 1)
    outside = names.archive_objects(
        [archived("a", 4, "f" * 16, 2), archived("a", 5, same.mark), archived("b", 8, "0" * 16)]
    )
    planned = plan.plan_pass([same, other, new], outside, NOW)
    assert [one.account for one in planned.changed] == ["b", "c"]
    assert planned.unchanged == 1
    purged = AccountMark("a", 5, 1, 2)
    assert plan.plan_pass([purged], outside, NOW).changed == (purged,)


def test_archives_of_purged_accounts_go_after_a_week() -> None:
    """Not at once: whoever lost his index must not lose what is outside."""
    young, old = archived("young", 5, days_ago=6), archived("old", 5, days_ago=8)
    planned = plan.plan_pass([], names.archive_objects([young, old]), NOW)
    assert [one.name for one in planned.gone] == [old]


def test_what_two_passes_hold_is_needed_no_more() -> None:
    """Parcels go once the last pass but one holds them; of an account two archives stay."""
    summaries = [SummaryObject(through, NOW, f"s{through}") for through in (10, 20, 30, 40)]
    found = ranges((1, 10), (11, 20), (21, 30), (31, 40))
    assert plan.obsolete_ranges(summaries[:1], found) == []
    assert [one.last for one in plan.obsolete_ranges(summaries, found)] == [10, 20, 30]
    assert [one.through for one in plan.obsolete_summaries(summaries)] == [10]
    outside = names.archive_objects(archived("a", number) for number in (1, 2, 3))
    assert [one.through for one in plan.obsolete_archives(outside)] == [1]
    assert [one.through for one in plan.archives_to_take(outside)[0]] == [3, 2, 1]


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (((1, 5), (6, 9)), [(1, 5), (6, 9)]),
        (((1, 5), (8, 9)), [(8, 9)]),
        (((1, 5), (1, 7), (8, 9)), [(1, 7), (8, 9)]),
        (((1, 9), (3, 5), (10, 12)), [(1, 9), (10, 12)]),
        (((1, 5), (4, 9)), [(1, 5), (4, 9)]),
        ((), []),
    ],
)
def test_the_newest_unbroken_run_of_the_journal_is_taken(
    there: tuple[tuple[int, int], ...], taken: list[tuple[int, int]]
) -> None:
    """What overlaps is taken once, what lies before a hole not at all."""
    found = plan.stretches_to_take(ranges(*there))
    assert [(one.first, one.last) for one in found] == taken
