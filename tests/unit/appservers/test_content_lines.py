"""Claims about photographs of vCards and iCalendar files."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.appservers.content_lines import photograph_calendar_item, photograph_contact
from backupd.items import Kind
from tests.world.corpus import WHERE, corpus_files


@given(st.binary(max_size=300))
def test_any_bytes_are_an_item(content):
    """Whatever a file holds, it has a kind and a photograph that JSON gives back."""
    for photograph in (photograph_contact, photograph_calendar_item):
        _, metadata = photograph(content)
        assert msgspec.json.decode(msgspec.json.encode(metadata)) == metadata


def test_a_contact():
    """Folded lines, groups, escapes and quoted-printable are read."""
    card = (
        b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Jane\\, the \r\n second\r\nUID:u-1\r\n"
        b"item1.EMAIL;TYPE=work:jane@example.org\r\nORG:Acme;Sales\r\n"
        b"CATEGORIES:friends,work\r\nEND:VCARD\r\n"
    )
    assert photograph_contact(card) == (
        Kind.CONTACT,
        {
            "name": "Jane, the second",
            "uid": "u-1",
            "organization": "Acme;Sales",
            "emails": ["jane@example.org"],
            "tags": ["friends", "work"],
        },
    )
    old = b"BEGIN:VCARD\nVERSION:2.1\nN;CHARSET=ISO-8859-1;ENCODING=QUOTED-PRINTABLE:M=FCller;Jo\nEND:VCARD\n"
    assert photograph_contact(old) == (Kind.CONTACT, {"name": "Jo Müller"})


@pytest.mark.parametrize("line", [b"KIND:group", b"X-ADDRESSBOOKSERVER-KIND:group"])
def test_a_contact_group(line):
    """A card of kind group is a contact group, its members counted."""
    card = b"BEGIN:VCARD\n" + line + b"\nFN:All\nMEMBER:urn:uuid:1\nMEMBER:urn:uuid:2\nEND:VCARD\n"
    assert photograph_contact(card) == (Kind.CONTACT_GROUP, {"name": "All", "members": 2})


def test_an_appointment():
    """The first event counts; alarms within it and overridden recurrences do not blur it."""
    text = (
        b"BEGIN:VCALENDAR\nBEGIN:VTIMEZONE\nTZID:X\nBEGIN:STANDARD\nDTSTART:19700101T000000\nEND:STANDARD\n"
        b"END:VTIMEZONE\nBEGIN:VEVENT\nUID:e-1\nSUMMARY:Lunch\nDTSTART;TZID=Europe/Rome:20261124T120000\n"
        b"BEGIN:VALARM\nSUMMARY:alarm\nEND:VALARM\nRRULE:FREQ=DAILY\nATTENDEE:mailto:a@b\nEND:VEVENT\n"
        b"BEGIN:VEVENT\nUID:e-1\nSUMMARY:Late lunch\nEND:VEVENT\nEND:VCALENDAR\n"
    )
    assert photograph_calendar_item(text) == (
        Kind.APPOINTMENT,
        {
            "uid": "e-1",
            "subject": "Lunch",
            "start": "20261124T120000",
            "zone": "Europe/Rome",
            "recurrence": "FREQ=DAILY",
            "attendees": 1,
            "components": 2,
        },
    )


def test_a_task_and_what_is_neither():
    """A VTODO is a task; a file without either component is an appointment that tells nothing."""
    task = b"BEGIN:VCALENDAR\nBEGIN:VTODO\nSUMMARY:Do\nDUE:20261201\nEND:VTODO\nEND:VCALENDAR\n"
    assert photograph_calendar_item(task) == (Kind.TASK, {"subject": "Do", "due": "20261201"})
    assert photograph_calendar_item(b"\xff\xfe\0") == (Kind.APPOINTMENT, {})


def test_the_corpus():
    """Every vCard and iCalendar file of the corpus has a photograph that JSON gives back."""
    files = corpus_files("ics") + corpus_files("vcf")
    if not files:
        pytest.skip(f"no corpus: {WHERE}")
    kinds = set()
    for path in files:
        content = path.read_bytes()
        for photograph in (photograph_contact, photograph_calendar_item):
            kind, metadata = photograph(content)
            kinds.add(kind)
            assert msgspec.json.decode(msgspec.json.encode(metadata)) == metadata, path
    assert kinds >= {Kind.CONTACT, Kind.APPOINTMENT, Kind.TASK}
