"""Attributes: names, values as text, inheritance, and settings that are written through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.attribute_table import TABLE, Level, Type
from backupd.attributes import (
    Place,
    Scopes,
    Settings,
    attribute_named,
    checked,
    resolve,
    schedule_of,
    shown,
    why_no_pattern,
)
from backupd.errors import UsageError
from backupd.parameters import squashed

SERVER = Scopes(server="s1")


class Row(msgspec.Struct, frozen=True):
    """A stored setting."""

    level: str
    scope: str
    name: str
    value: Any


class MemoryStorage:
    """Settings in a table."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], Any] = {}

    def attributes(self) -> Iterable[Row]:
        return [Row(level, scope, name, value) for (level, scope, name), value in self.rows.items()]

    def set_attribute(self, level: str, scope: str, name: str, value: Any) -> None:
        self.rows[level, scope, name] = value

    def unset_attribute(self, level: str, scope: str, name: str) -> None:
        self.rows.pop((level, scope, name), None)


def test_the_table_is_consistent() -> None:
    """Names are unique in any spelling, levels are ordered, each default fits its row."""
    assert len({squashed(row.name) for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert checked(row, row.default) == row.default
        assert list(row.levels) == [level for level in Level if level in row.levels]
        assert row.levels
        assert row.meaning.endswith(".")
        assert row.range


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_what_is_shown_can_be_read_back(row) -> None:
    """A default printed as a console prints it is read as the same value."""
    assert checked(row, shown(row.default)) == row.default


def test_names_are_found_whatever_their_case() -> None:
    """Case, `-` and `_` make no difference; a wrong name is answered with the nearest."""
    assert attribute_named("zxbackup_realtimescanner") is attribute_named("ZxBackup-RealTimeScanner")
    with pytest.raises(UsageError) as caught:
        attribute_named("ZxBackup_RealTimeScaner")
    assert "did you mean ZxBackup_RealTimeScanner?" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ZxBackup_RealTimeScanner", "FALSE", False),
        ("ZxBackup_RealTimeScanner", " On ", True),
        ("ZxBackup_RealTimeScanner", True, True),
        ("ZxBackup_SpaceThreshold", "2048", 2048),
        ("ZxBackup_DataRetentionDays", "0", 0),
        ("ZxBackup_DestPath", "/opt/carbonio-backup", "/opt/carbonio-backup"),
        (
            "backupSmartScanScheduler",
            '{"cron-pattern":"30 2 * * *"}',
            {"cron-enabled": True, "cron-pattern": "30 2 * * *"},
        ),
        ("backupSmartScanScheduler", '{"cron-enabled":false}', {"cron-enabled": False, "cron-pattern": ""}),
        ("backupArchivingStore", "{}", {}),
        ("s3BucketConfigurations", "[]", []),
    ],
)
def test_values_are_read(name: str, text: object, value: object) -> None:
    """Texts and JSON values become what they mean, with the right type."""
    found = checked(attribute_named(name), text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("ZxBackup_RealTimeScanner", "perhaps", "true or false"),
        ("ZxBackup_RealTimeScanner", 1, "true or false"),
        ("ZxBackup_DataRetentionDays", "-1", "0 to 36500 days"),
        ("ZxBackup_DataRetentionDays", "36501", "0 to 36500 days"),
        ("ZxBackup_DataRetentionDays", "1.5", "0 to 36500 days"),
        ("ZxBackup_DataRetentionDays", "٣", "0 to 36500 days"),
        ("ZxBackup_DataRetentionDays", True, "0 to 36500 days"),
        ("ZxBackup_SpaceThreshold", "9" * 5000, "a whole number of MB, 0 or more"),
        ("ZxCore_LogLevel", "2", "0 to 1"),
        ("ZxBackup_DestPath", "relative/path", "it must begin with /"),
        ("ZxBackup_DestPath", "/with\nnewline", "an absolute path"),
        ("ZxBackup_DestPath", "", "an absolute path"),
        ("backupSmartScanScheduler", "0 4 * * *", "no JSON"),
        ("backupSmartScanScheduler", '{"cron-pattern":"0 4 * *"}', "5 fields"),
        ("backupSmartScanScheduler", '{"cron-pattern":"61 4 * * *"}', "Bad minute"),
        ("backupSmartScanScheduler", '{"cron-pattern":"0 0 31 2 *"}', "day"),
        ("backupSmartScanScheduler", '{"cron-enabled":true}', "5 fields"),
        ("backupSmartScanScheduler", '{"cron-patern":"0 4 * * *"}', "cron-patern"),
        ("backupArchivingStore", "[]", "a JSON object"),
        ("s3BucketConfigurations", "{}", "a JSON array"),
        ("backupArchivingStore", "[" * 5000, "JSON"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, text: object, says: str) -> None:
    """A value of the wrong type or out of range is refused in one line that names the range."""
    with pytest.raises(UsageError) as caught:
        checked(attribute_named(name), text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.sampled_from(TABLE), st.text() | st.integers() | st.booleans() | st.none() | st.lists(st.text()))
def test_any_value_is_taken_or_refused(row, given_value) -> None:
    """Whatever comes is a `UsageError` or a value that is accepted again unchanged."""
    try:
        value = checked(row, given_value)
    except UsageError:
        return
    assert checked(row, value) == value
    assert checked(row, shown(value)) == value


def test_the_most_specific_value_holds() -> None:
    """Account wins over COS, COS over the default; a level that an attribute lacks is never looked at."""
    row = attribute_named("backupEnabled")
    stored: dict[Place, Any] = {(Level.COS, "gold", row.name): False, (Level.GLOBAL, "", row.name): False}
    account = Scopes(server="s1", cos="gold", account="a1")
    found = resolve(row, account, stored)
    assert (found.value, found.is_inherited, found.level) == (False, True, Level.COS)
    stored[Level.ACCOUNT, "a1", row.name] = True
    assert resolve(row, account, stored).value is True
    assert not resolve(row, account, stored).is_inherited
    other = resolve(row, Scopes(server="s1", cos="lead", account="a2"), stored)
    assert (other.value, other.is_inherited, other.level) == (True, True, None)


def test_server_inherits_from_global() -> None:
    """A value set globally holds for the server as inherited, until the server has its own."""
    settings = Settings(MemoryStorage())
    settings.set("ZxBackup_SpaceThreshold", Scopes(), "77")
    assert settings.get("ZxBackup_SpaceThreshold", SERVER).value == 77
    assert settings.get("ZxBackup_SpaceThreshold", SERVER).is_inherited
    assert not settings.get("ZxBackup_SpaceThreshold").is_inherited
    settings.set("ZxBackup_SpaceThreshold", SERVER, "88")
    assert settings.get("ZxBackup_SpaceThreshold", SERVER).value == 88
    assert settings.unset("ZxBackup_SpaceThreshold", SERVER).value == 77


def test_settings_survive_and_tell() -> None:
    """What was set is in the storage under the attribute's own name, is there again, and listeners heard."""
    storage = MemoryStorage()
    settings = Settings(storage)
    heard: list[str] = []
    settings.on_change(lambda attribute: heard.append(attribute.name))
    settings.set("zxbackup_realtimescanner", SERVER, "false")
    assert storage.rows == {("server", "s1", "ZxBackup_RealTimeScanner"): False}
    assert Settings(storage).get("ZxBackup_RealTimeScanner", SERVER).value is False
    settings.unset("ZXBACKUP_REALTIMESCANNER", SERVER)
    assert (storage.rows, heard) == ({}, ["ZxBackup_RealTimeScanner"] * 2)


def test_a_refused_value_changes_nothing() -> None:
    """A value or level that does not fit leaves storage and memory as they were."""
    storage = MemoryStorage()
    settings = Settings(storage)
    with pytest.raises(UsageError):
        settings.set("ZxCore_LogLevel", SERVER, "loud")
    with pytest.raises(UsageError, match="level account") as caught:
        settings.set("ZxCore_LogLevel", Scopes(account="a"), "1")
    assert "global, server" in caught.value.hint
    assert storage.rows == {}


def test_what_no_longer_fits_is_left_out_and_named() -> None:
    """Rows of another version neither stop the start nor disappear from the storage."""
    storage = MemoryStorage()
    storage.rows = {
        ("global", "", "ZxCore_LogLevel"): 9,
        ("global", "", "ZxBackup_Gone"): 1,
        ("galaxy", "", "ZxCore_LogLevel"): 1,
    }
    settings = Settings(storage)
    assert settings.get("ZxCore_LogLevel").value == 1
    assert len(settings.refused) == 3
    assert len(storage.rows) == 3


def test_a_value_given_from_elsewhere() -> None:
    """The Backup Path of the file is shown as set at the server, kept elsewhere, and returns when unset."""
    storage, kept = MemoryStorage(), []
    place = (Level.SERVER, "s1", "ZxBackup_DestPath")
    settings = Settings(storage, given={place: "/from/file"}, elsewhere={"ZxBackup_DestPath": kept.append})
    assert settings.get("ZxBackup_DestPath", SERVER).value == "/from/file"
    assert not settings.get("ZxBackup_DestPath", SERVER).is_inherited
    assert settings.set("ZxBackup_DestPath", SERVER, "/new").value == "/new"
    assert settings.unset("ZxBackup_DestPath", SERVER).value == "/from/file"
    assert (kept, storage.rows) == (["/new", None], {})


def test_dump_lists_what_a_level_has() -> None:
    """A dump holds the attributes of its level, in the table's order, with or without inherited ones."""
    settings = Settings(MemoryStorage())
    settings.set("ZxCore_LogLevel", SERVER, "0")
    names = [row.attribute.name for row in settings.dump(SERVER)]
    assert names == [row.name for row in TABLE if Level.SERVER in row.levels]
    assert [row.attribute.name for row in settings.dump(SERVER, show_inherited=False)] == ["ZxCore_LogLevel"]
    of_accounts = [row.attribute.name for row in settings.dump(Scopes(account="a"))]
    assert of_accounts == [row.name for row in TABLE if Level.ACCOUNT in row.levels]
    assert "backupEnabled" in of_accounts


def test_what_is_set_of_an_attribute_is_told_by_place() -> None:
    """Every level and scope of one attribute is told, and nothing of others."""
    settings = Settings(MemoryStorage())
    settings.set("backupEnabled", Scopes(cos="c"), "false")
    settings.set("backupEnabled", Scopes(account="a"), "true")
    settings.set("ZxCore_LogLevel", SERVER, "0")
    assert settings.stored("backup-enabled") == {(Level.COS, "c"): False, (Level.ACCOUNT, "a"): True}


def test_schedules_are_read() -> None:
    """A scheduler's value becomes its switch and its pattern; a pattern has five fields and some day."""
    for row in TABLE:
        if row.type is Type.SCHEDULE:
            assert len(schedule_of(row.default).cron_pattern.split()) == 5
            assert not why_no_pattern(schedule_of(row.default).cron_pattern)
    assert "fields" in why_no_pattern("0 0 4 * * *")
