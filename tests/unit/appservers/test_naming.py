"""Claims about names from the file system."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.appservers.naming import checked_name, checked_path, from_utf7, raw, shown, to_utf7
from backupd.errors import AppServerRefused

NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name and b"/" not in name)


@given(NAMES | st.text(alphabet="aé\uef80\uefffz", min_size=1).map(str.encode))
def test_every_name_comes_back(name):
    """Any file name is shown as valid Unicode, and comes back exactly."""
    system = os.fsdecode(name)
    text = shown(system)
    text.encode("utf-8")
    assert os.fsencode(raw(text)) == name


@given(st.lists(NAMES, min_size=2, max_size=2, unique=True))
def test_different_names_are_shown_differently(names):
    """No two names are shown as one text."""
    assert len({shown(os.fsdecode(name)) for name in names}) == 2


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_utf7_comes_back(text):
    """What modified UTF-7 writes, it reads, unless a path separator or NUL would appear."""
    if "/" not in text and "\0" not in text:
        assert from_utf7(to_utf7(text)) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Entw&APw-rfe", "Entwürfe"),
        ("&ZeVnLIqe-", "日本語"),
        ("A&-B", "A&B"),
        ("plain", "plain"),
        ("A&B", "A&B"),
        ("x&AC8-y", "x&AC8-y"),
        ("&APw", "&APw"),
        ("&2AA-", "&2AA-"),
        ("&AGE-", "&AGE-"),
    ],
)
def test_utf7_examples(name, text):
    """Canonical names are decoded; what is none, or would hold a separator, stays as it is."""
    assert from_utf7(name) == text


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "x" * 256, "\ud800"])
def test_dangerous_names_are_refused(name):
    """A name that is no file name of its folder is refused."""
    with pytest.raises(AppServerRefused):
        checked_name(name)


def test_paths():
    """The empty path has no names; others have theirs."""
    assert checked_path("") == []
    assert checked_path("a/é") == ["a", "é"]
