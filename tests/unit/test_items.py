"""Items: digests, and names from outside that become file names and are read back."""

from __future__ import annotations

import base64
import hashlib
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backupd.items import (
    AREA_OF_KIND,
    CONTENT_KINDS,
    NAME_BYTES_MAX,
    SERVER_KINDS,
    ItemKey,
    Kind,
    digest_of,
    file_name_of,
    identifier_of,
    is_digest,
    name_is_cut,
    two_digits_of,
)

IDENTIFIERS = st.text(max_size=200) | st.text(string.ascii_letters + "./%\\~$ \0ä-", max_size=600)
SAFE = frozenset(string.ascii_letters + string.digits + "._@=,+~-%")


def test_a_digest_is_sha256_in_base64_with_commas() -> None:
    """The digest is the specification's form: SHA-256, Base64, `/` written as `,`, 44 characters."""
    assert digest_of(b"") == "47DEQpj8HBSa+,TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    digest = digest_of(b"hello")
    assert base64.b64decode(digest.replace(",", "/")) == hashlib.sha256(b"hello").digest()


@given(st.binary())
def test_every_digest_has_the_form(content: bytes) -> None:
    """What is made is recognised, and is a harmless file name."""
    digest = digest_of(content)
    assert is_digest(digest)
    assert file_name_of(digest) == digest


@pytest.mark.parametrize(
    "text", ["", "x" * 44, "x" * 43 + "=\n", "/" + "x" * 42 + "=", "x" * 44 + "=", "é" * 43 + "="]
)
def test_other_texts_are_no_digests(text: str) -> None:
    """Wrong length, characters, padding or a trailing newline are not recognised."""
    assert not is_digest(text)


@given(IDENTIFIERS)
@example("")
@example(".")
@example("..")
@example("../../etc/passwd")
@example("%")
@example("%2F")
@example("%%")
@example("a%%b")
@example("x" * 255)
@example("x" * 256)
@example("é" * 85)
@example("é" * 200)
@example("\U0001f4e7" * 21)
@example("\U0001f4e7" * 22)
def test_a_file_name_is_always_harmless(identifier: str) -> None:
    """Whatever the identifier, its file name is one safe component, and tells the identifier unless cut."""
    name = file_name_of(identifier)
    assert 1 <= len(name.encode()) <= NAME_BYTES_MAX
    assert set(name) <= SAFE
    assert name not in (".", "..")
    assert not name.startswith(".")
    if not name_is_cut(identifier):
        assert identifier_of(name) == identifier


@given(IDENTIFIERS, IDENTIFIERS)
def test_two_identifiers_have_two_file_names(one: str, other: str) -> None:
    """No two identifiers share a file."""
    assert (file_name_of(one) == file_name_of(other)) == (one == other)


def test_long_identifiers_differ_behind_the_cut() -> None:
    """Identifiers that are equal for thousands of characters still have their own files, and know it."""
    names = {file_name_of("x" * 5000 + end) for end in "abc"}
    assert len(names) == 3
    assert all(name_is_cut("x" * 5000 + end) for end in "abc")
    assert not name_is_cut("2057")


def test_identifiers_of_undecodable_bytes_survive() -> None:
    """A name with bytes that are no UTF-8 (surrogates) is read back as it was."""
    identifier = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert identifier_of(file_name_of(identifier)) == identifier


@pytest.mark.parametrize(
    ("item", "digits"), [("2057", "57"), ("7", "07"), ("100", "00"), ("x", None), ("٣", None)]
)
def test_items_are_spread_by_two_digits(item: str, digits: str | None) -> None:
    """A numeric id gives its last two digits, any other two digits of its own."""
    found = two_digits_of(item)
    assert len(found) == 2
    assert found.isascii()
    assert found.isdigit()
    assert digits in (None, found)


def test_kinds_are_sorted_completely() -> None:
    """Every kind has content, belongs to the server, or is a folder or an account."""
    assert frozenset(Kind) == CONTENT_KINDS | SERVER_KINDS | {Kind.FOLDER, Kind.ACCOUNT}
    assert not CONTENT_KINDS & SERVER_KINDS
    assert set(AREA_OF_KIND) == CONTENT_KINDS


def test_keys_are_written_as_paths() -> None:
    """A key is written account, kind, item."""
    assert str(ItemKey("a", Kind.MESSAGE, "2057")) == "a/message/2057"
