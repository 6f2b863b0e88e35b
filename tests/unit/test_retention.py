"""What stays and what goes, by the rules of retention alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backupd.retention import (
    LIVING,
    WITH_ACCOUNT,
    AccountStanding,
    Cutoffs,
    Retention,
    Stay,
    account_stays,
    archives_that_go,
    cutoffs,
    item_stays,
)

NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)
ages = st.floats(min_value=0, max_value=4000).map(lambda days: NOW - timedelta(days=days))
retentions = st.builds(
    Retention,
    data_days=st.integers(0, 400),
    account_days=st.integers(0, 400),
    archive_days=st.integers(0, 400),
)
protections = st.sampled_from([None, Stay.LEGAL_HOLD, Stay.SUSPENDED])
standings = st.builds(AccountStanding, gone_since=st.none() | ages, protection=protections)


def days(data: int = 30, accounts: int = 30, archives: int = 30) -> Cutoffs:
    return cutoffs(Retention(data_days=data, account_days=accounts, archive_days=archives), NOW)


def ago(number: float) -> datetime:
    return NOW - timedelta(days=number)


def test_an_item_stays_for_as_long_as_retention_says() -> None:
    """An item goes once its deletion is older than the days in force; one that lives never does."""
    assert item_stays(ago(30.01), LIVING, days()) is None
    assert item_stays(ago(30), LIVING, days()) is Stay.WITHIN_RETENTION
    assert item_stays(None, LIVING, days()) is Stay.LIVE
    assert item_stays(ago(3000), LIVING, days(data=0)) is Stay.FOR_EVER


def test_what_went_with_an_account_stays_with_it() -> None:
    """What was in an account when it went, or went shortly before, follows the account and not the data."""
    gone = AccountStanding(gone_since=ago(40))
    at = days(data=10, accounts=60)
    assert item_stays(None, gone, at) is Stay.ACCOUNT_WITHIN_RETENTION
    assert item_stays(ago(39), gone, at) is Stay.ACCOUNT_WITHIN_RETENTION
    assert item_stays(ago(40) - WITH_ACCOUNT, gone, at) is Stay.ACCOUNT_WITHIN_RETENTION
    assert item_stays(ago(41.01), gone, at) is None
    assert item_stays(ago(40), gone, days(data=10, accounts=0)) is Stay.FOR_EVER
    assert account_stays(gone, at) is Stay.WITHIN_RETENTION
    assert account_stays(gone, days(accounts=39)) is None
    assert account_stays(gone, days(accounts=0)) is Stay.FOR_EVER


@given(retentions, standings, st.none() | ages)
def test_nothing_protected_or_living_or_young_goes(
    retention: Retention, account: AccountStanding, deleted: datetime | None
) -> None:
    """Whatever the numbers: what is protected, lives, or is young stays; what goes is older than that."""
    at = cutoffs(retention, NOW)
    goes = item_stays(deleted, account, at) is None
    if goes:
        assert account.protection is None
        assert deleted is not None
        assert retention.data_days
        assert NOW - deleted > timedelta(days=retention.data_days)
        assert account.gone_since is None or deleted < account.gone_since - WITH_ACCOUNT
    if account_stays(account, at) is None:
        assert account.protection is None
        assert account.gone_since is not None
        assert retention.account_days
        assert NOW - account.gone_since > timedelta(days=retention.account_days)


@given(retentions, standings, ages)
def test_more_days_never_let_more_go(
    retention: Retention, account: AccountStanding, deleted: datetime
) -> None:
    """What stays with some days stays with more of them."""
    longer = Retention(
        data_days=retention.data_days and retention.data_days + 1,
        account_days=retention.account_days and retention.account_days + 1,
        archive_days=0,
    )
    if item_stays(deleted, account, cutoffs(retention, NOW)) is not None:
        assert item_stays(deleted, account, cutoffs(longer, NOW)) is not None
    if account_stays(account, cutoffs(retention, NOW)) is not None:
        assert account_stays(account, cutoffs(longer, NOW)) is not None


@given(st.lists(ages, unique=True), st.none() | ages, st.booleans())
def test_the_newest_archive_always_stays(
    dates: list[datetime], cutoff: datetime | None, follow: bool
) -> None:
    """Of each kind of archive the newest stays whatever its age, and each is counted."""
    going, staying = archives_that_go(dates, cutoff, follow=follow)
    assert len(going) + staying.total() == len(dates)
    assert not dates or max(dates) not in going
    assert all(follow and cutoff is not None and date < cutoff for date in going)


def test_infinite_retention_is_told_by_class() -> None:
    """Each class that stays for ever is named; only all of them make retention infinite."""
    some = Retention(data_days=0, account_days=30, archive_days=0)
    assert not some.is_infinite
    told = [words.partition(" (")[0] for words in some.for_ever]
    assert told == ["deleted items", "archives of the server"]
    assert Retention(data_days=0, account_days=0, archive_days=0).is_infinite
    assert days(data=36_500 * 100).data is None
