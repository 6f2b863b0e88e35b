"""`id_mapper.log`: lines come back as they were, none twice, whatever the ids and whatever a crash left."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from backupd.items import Kind
from backupd.store.id_mapper import IdMapper, MappedItem
from backupd.store.layout import Layout


def one(source: str, target: str = "new", kind: Kind = Kind.MESSAGE) -> MappedItem:
    return MappedItem(source=source, target=target, kind=kind, origin="server/account")


def test_lines_are_appended_once(tmp_path: Path) -> None:
    """What is there already gives no second line; the file is for its owner alone."""
    mapper = IdMapper(Layout(tmp_path))
    assert mapper.read("acc") == []
    mapper.append("acc", [one("1"), one("2")])
    mapper.append("acc", [one("2"), one("3"), one("3")])
    assert [each.source for each in mapper.read("acc")] == ["1", "2", "3"]
    assert mapper.path("acc").read_text().splitlines()[0] == "1\tnew\tmessage\tserver/account"
    assert mapper.path("acc").stat().st_mode & 0o777 == 0o600


def test_a_torn_line_is_left_out_and_written_again(tmp_path: Path) -> None:
    """Wherever a crash cut the last line short, what it told is told by the next append."""
    mapper = IdMapper(Layout(tmp_path))
    mapper.append("acc", [one("1"), one("2")])
    whole = mapper.path("acc").read_bytes()
    for length in range(len(whole)):
        mapper.path("acc").write_bytes(whole[:length])
        mapper.append("acc", [one("1"), one("2")])
        assert mapper.read("acc") == [one("1"), one("2")]


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_ids_come_back(tmp_path_factory, source: str, target: str) -> None:
    """Tabs, line ends and percent signs in ids begin no other field or line."""
    mapper = IdMapper(Layout(tmp_path_factory.mktemp("map")))
    mapper.append("acc", [one(source, target)])
    assert mapper.read("acc") == [one(source, target)]
