"""Claims about the header fields of a photograph."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.appservers.headers import (
    RECIPIENTS_MAX,
    TEXT_CHARACTERS_MAX,
    address_of,
    date_of,
    decoded,
    photograph_headers,
    split_addresses,
)

PIECES = [b"Subject: ", b"=?utf-8?q?", b"?=", b"\xe9", b"\n", b"\r\n", b" ", b"To: ", b",", b'"', b"("]
HOSTILE = [
    b"(" * 60_000,
    b'"' * 60_001,
    b"=?a?q?" * 10_000,
    b" \t" * 30_000,
    b"\\(" * 30_000,
    b"\n " * 30_000,
]


@given(st.binary(max_size=400) | st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_any_bytes_give_a_photograph_that_json_gives_back(content):
    """Whatever a message holds, its photograph is JSON in UTF-8 and comes back equal."""
    metadata = photograph_headers(content)
    assert msgspec.json.decode(msgspec.json.encode(metadata)) == metadata


def test_the_usual_fields():
    """Folded, encoded and listed fields are told as people read them."""
    message = (
        b"Received: from somewhere\r\n\tby elsewhere\r\n"
        b"SUBJECT: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?b?IGF1cw==?= Wien\r\n"
        b'From: "Doe, Jane" <jane@example.org>\r\n'
        b'To: a@example.org, "B, C" <b@example.org>\r\n'
        b"Cc: d@example.org (a, comment)\r\n"
        b"Date: Mon, 23 Nov 2026 20:55:00 +0200\r\n"
        b"Message-ID: <1@example.org>\r\nIn-Reply-To: <0@example.org>\r\n\r\nSubject: no\r\n"
    )
    assert photograph_headers(message) == {
        "subject": "Grüße aus Wien",
        "from": '"Doe, Jane" <jane@example.org>',
        "sender": "jane@example.org",
        "to": ["a@example.org", '"B, C" <b@example.org>'],
        "cc": ["d@example.org (a, comment)"],
        "recipients": 3,
        "date": "2026-11-23T18:55:00.000000Z",
        "message_id": "<1@example.org>",
        "in_reply_to": "<0@example.org>",
    }


@pytest.mark.parametrize(
    ("content", "subject"),
    [
        (b"", None),
        (b"\r\nSubject: body\r\n", None),
        (b"Subject: only", "only"),
        (b"Subject: mac\rFrom: a@b\r\rbody", "mac"),
        (b"Subject : spaced\n\nbody", "spaced"),
        (b"From x@y Mon Jan  1 00:00:00 2026\nSubject: mbox\n\n", "mbox"),
        (b"Subject: \xc3\xa9\xff\n\n", "Ã©ÿ"),
        (b"Subject: \xc3\xa9\n\n", "é"),
        (b"Subject: a\0b\x07c\n\n", "a b c"),
        (b"Subject: =?utf-8?q?caf=C3?= =?utf-8?q?=A9?=\n\n", "café"),
        (b"Subject: =?nonsense?q?caf=e9?=\n\n", "café"),
        (b"Subject: =?utf-8?b?Y2Fm?= =?x\n\n", "caf =?x"),
        (b"Subject: =?utf-8*en?q?x_y?=\n\n", "x y"),
        (b"Subject: =?utf-7?q?+2AA-?=\n\n", "+2AA-"),
        (b"X: 1\nSubject: " + b"a" * 5000 + b"\n\n", "a" * (TEXT_CHARACTERS_MAX - 1) + "…"),
    ],
)
def test_odd_headers(content, subject):
    """Broken headers are shown as well as they can be."""
    assert photograph_headers(content).get("subject") == subject


def test_many_recipients_are_counted_and_bounded():
    """Of a thousand recipients the first hundred are listed, and all are counted."""
    message = b"To: " + b",\r\n ".join(b"a%d@example.org" % n for n in range(1000)) + b"\r\n\r\n"
    metadata = photograph_headers(message)
    assert len(metadata["to"]) == RECIPIENTS_MAX
    assert metadata["recipients"] == 1000


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_headers_cost_no_more_than_long_ones(hostile):
    """No header takes more than linear time: 60 KB are read in a fraction of a second."""
    began = time.process_time()
    photograph_headers(b"To: " + hostile + b"\nSubject: " + hostile + b"\n\n")
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("Mon, 23 Nov 2026 20:55:00 +0000", "2026-11-23T20:55:00.000000Z"),
        ("23 Nov 2026 20:55:00 -0130 (EST)", "2026-11-23T22:25:00.000000Z"),
        ("Mon, 23 Nov 2026 20:55 GMT", "2026-11-23T20:55:00.000000Z"),
        ("Thu, 31 Dec 1998 23:59:60 +0000", "1998-12-31T23:59:59.000000Z"),
        ("99 Nov 2026 20:55:00 +0000", "99 Nov 2026 20:55:00 +0000"),
        ("yesterday", "yesterday"),
        ("", ""),
    ],
)
def test_dates(text, moment):
    """A Date field is told in UTC; what is no date stays as it stands."""
    assert date_of(text) == moment


def test_addresses():
    """Bare addresses are found; lists are split only at real commas."""
    assert address_of("Jane <jane@example.org>") == "jane@example.org"
    assert address_of("jane@example.org (Jane)") == "jane@example.org"
    assert address_of("undisclosed") == "undisclosed"
    assert split_addresses('"a\\",b" <x@y>, c@d,, (e, f) g@h') == ['"a\\",b" <x@y>', "c@d", "(e, f) g@h"]
    assert decoded(b"=?iso-8859-1?q?=E9?= x") == "é x"
