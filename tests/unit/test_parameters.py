"""Values: what a word or a JSON value means, and what is refused how."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.errors import UsageError
from backupd.parameters import Parameter, Type, checked, did_you_mean, nearest, squashed

UUID = "0192f3c4-0000-4000-8000-0123456789ab"
DATE = Parameter("date", Type.DATE, "when", keywords=("last", "most_recent"))
KIND = Parameter("type", Type.CHOICE, "what", choices=("message", "contact-group", "all"))

DICE = Parameter("seed", Type.INTEGER, "any", lowest=-3, highest=6)


def a(kind: Type) -> Parameter:
    return Parameter("it", kind, "a value")


@pytest.mark.parametrize(
    ("parameter", "word", "value"),
    [
        (a(Type.BOOLEAN), "TRUE", True),
        (a(Type.BOOLEAN), "1", True),
        (a(Type.BOOLEAN), "yes", True),
        (a(Type.BOOLEAN), "False", False),
        (a(Type.BOOLEAN), "0", False),
        (a(Type.BOOLEAN), False, False),
        (a(Type.BOOLEAN), 1, True),
        (a(Type.INTEGER), "15", 15),
        (DICE, "-3", -3),
        (DICE, 6, 6),
        (a(Type.INTEGER), 7, 7),
        (a(Type.TEXT), 15, "15"),
        (a(Type.TEXT), True, "true"),
        (a(Type.TEXT), "", ""),
        (a(Type.LIST), "a@b, c@d,,", ["a@b", "c@d"]),
        (a(Type.LIST), ["a", "b"], ["a", "b"]),
        (a(Type.UUID), UUID.upper(), UUID),
        (a(Type.PATH), "/var/backup", "/var/backup"),
        (a(Type.ACCOUNT), "alice@example.com", "alice@example.com"),
        (KIND, "Contact_Group", "contact-group"),
        (DATE, "LAST", "last"),
        (DATE, "most recent", "most_recent"),
        (DATE, "2026-11-23T20:55:00Z", "2026-11-23T20:55:00.000000Z"),
        (DATE, "2026-11-23T20:55:00.123456+01:00", "2026-11-23T19:55:00.123456Z"),
    ],
)
def test_a_value_means(parameter: Parameter, word: Any, value: Any):
    """Words and JSON become values of the parameter's type, and stay the same when checked again."""
    assert checked(parameter, word) == value
    assert checked(parameter, value) == value


@pytest.mark.parametrize(
    ("parameter", "word", "named"),
    [
        (a(Type.BOOLEAN), "maybe", "true or false"),
        (a(Type.INTEGER), "-1", "0 or more"),
        (DICE, "-4", "-3 to 6"),
        (DICE, 7, "-3 to 6"),
        (a(Type.BOOLEAN), 2, "true or false"),
        (a(Type.INTEGER), "3.5", "a whole number"),
        (a(Type.INTEGER), True, "a whole number"),
        (a(Type.INTEGER), 2**63, "a whole number"),
        (a(Type.INTEGER), "٣", "a whole number"),
        (a(Type.UUID), "5", "a UUID"),
        (a(Type.PATH), " ", "a path"),
        (a(Type.PATH), "/a\0b", "a path"),
        (a(Type.ACCOUNT), "a\nb", "an account"),
        (a(Type.LIST), " , ", "separated by commas"),
        (a(Type.LIST), [1], "separated by commas"),
        (a(Type.TEXT), {"a": 1}, "a text"),
        (a(Type.TEXT), None, "a text"),
        (KIND, "mesage", "did you mean message?"),
        (DATE, "yesterday", "last, most_recent"),
        (DATE, "31/02/2026", "dd/MM/yyyy"),
        (DATE, "0001-01-01T00:00:00+14:00", "dd/MM/yyyy"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_would(parameter: Parameter, word: Any, named: str):
    """The refusal is one line that names the parameter and what is valid."""
    with pytest.raises(UsageError) as refused:
        checked(parameter, word)
    assert parameter.name in str(refused.value)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(parameter=st.sampled_from([*map(a, Type), KIND, DATE]), word=JSON)
def test_checking_raises_nothing_but_usage_errors(parameter: Parameter, word: object):
    """Whatever JSON brings, a value comes out that passes again, or a `UsageError` of one printable line."""
    refusal = ""
    try:
        value = checked(parameter, word)
    except UsageError as error:
        refusal = error.message
    else:
        assert checked(parameter, value) == value
    assert len(refusal) < 300
    assert refusal.isprintable()


def test_names_are_compared_squashed():
    """Case, hyphens, underscores and blanks make no difference."""
    assert squashed("Dump-Blob") == squashed("dump_blob") == squashed("dump blob") == "dumpblob"


def test_the_nearest_word_is_named_only_where_one_is_near():
    """A hint helps a typing error and does not guess at anything else."""
    assert nearest("doSmartScn", ["doPurge", "doSmartScan"]) == "doSmartScan"
    assert nearest("xyzzy", ["doPurge", "doSmartScan"]) == ""
    assert did_you_mean("x", [], what="parameter") == "it takes no parameter"
