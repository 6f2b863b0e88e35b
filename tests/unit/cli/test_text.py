"""Text for people: nothing from a mailbox acts on a terminal."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.cli.text import duration, harmless_json, local, size, value_text, visible
from backupd.parameters import Parameter, Type, checked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 世界 👩‍👩‍👧", "Grüße, 世界 👩‍👩‍👧"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\0", "a\\nb\\tc\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("invoice\u202egpj.exe", "invoice\\u202egpj.exe"),
        ("\udcff", "\\udcff"),
        ("[bold]", "[bold]"),
    ],
)
def test_what_could_act_on_a_terminal_is_shown_as_its_escape(text: str, shown: str):
    """Letters of every script stay; controls, overrides and broken bytes become visible."""
    assert visible(text) == shown


@given(st.text())
def test_nothing_that_acts_passes(text: str):
    """No control or format character, whatever the text, but the joiners that scripts need."""
    left = {one for one in visible(text) if unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert left <= {"\u200c", "\u200d"}


@given(st.text())
def test_json_is_harmless_and_means_the_same(text: str):
    """The characters that JSON lets pass to a terminal are escaped; the value stays."""
    shown = harmless_json(json.dumps({"subject": text}, ensure_ascii=False).encode("utf-8", "replace"))
    assert json.loads(shown)["subject"] == text.encode("utf-8", "replace").decode()
    assert not any("\x7f" <= one <= "\x9f" or one < " " for one in shown)


def test_a_shown_moment_can_be_given_back():
    """What is printed as a date is a date that commands take, exactly."""
    moment = datetime(2026, 11, 23, 20, 55, 0, 123456, tzinfo=UTC)
    date = Parameter("date", Type.DATE, "when")
    assert checked(date, local(moment, exact=True)) == "2026-11-23T20:55:00.123456Z"
    assert local(None) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations_are_told_in_two_units(seconds: float, words: str):
    """A duration is as exact as a person needs."""
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 42, "12.0 TiB"),
    ],
)
def test_sizes_are_told_in_the_largest_unit(count: int | None, words: str):
    """Bytes stay exact below 1 KiB."""
    assert size(count) == words


@pytest.mark.parametrize(
    ("value", "shown"), [(None, ""), (True, "true"), ("a\x1b", "a\\x1b"), (["a", 1], '["a",1]'), ({}, "{}")]
)
def test_values_are_shown_as_texts_or_json(value: object, shown: str):
    """A text has no quotes; everything else is JSON."""
    assert value_text(value) == shown
