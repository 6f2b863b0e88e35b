"""vCard and iCalendar as photographs hold them: content lines (RFC 5545, RFC 6350), read tolerantly.

A *line* is (name, parameters as text, value), unfolded. A file that is no vCard or iCalendar at all is still
an item: it has a kind and a photograph without facts. Nothing here raises for bad content.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from backupd.appservers.headers import RECIPIENTS_MAX, clean_text
from backupd.items import Kind

CONTENT_BYTES_MAX = 4 << 20
"""Of a larger file only so much is looked at for the photograph; its content is kept whole."""
_FOLD = re.compile(r"\r?\n[ \t]|\r[ \t]")
_LINE_END = re.compile(r"\r\n|\n|\r")
_LINE = re.compile(r"([A-Za-z0-9.-]+)((?:;[^:\"]*(?:\"[^\"]*\"[^:\"]*)*)?):(.*)")
_ESCAPE = re.compile(r"\\(.)")
_QUOTED_PRINTABLE = re.compile(r"ENCODING=QUOTED-PRINTABLE", re.IGNORECASE)
_CHARSET = re.compile(r"CHARSET=\"?([^;:\"]+)", re.IGNORECASE)
_ZONE = re.compile(r"TZID=\"?([^;:\"]+)", re.IGNORECASE)
_QUOTED_BYTE = re.compile(rb"=([0-9A-Fa-f]{2})")

Line = tuple[str, str, str]


def content_lines(content: bytes) -> Iterator[Line]:
    """Yield (upper-case name without group, parameters, value) of each line that looks like one."""
    text = _text_of(content[:CONTENT_BYTES_MAX])
    for raw_line in _LINE_END.split(_FOLD.sub("", text)):
        if match := _LINE.match(raw_line.lstrip("\ufeff")):
            yield match.group(1).rpartition(".")[2].upper(), match.group(2), match.group(3)


def _text_of(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _value(line: Line) -> str:
    _, parameters, value = line
    if parameters and _QUOTED_PRINTABLE.search(parameters):
        value = _unquoted(value, parameters)
    if "\\" in value:
        value = _ESCAPE.sub(lambda match: "\n" if match.group(1) in "nN" else match.group(1), value)
    return clean_text(value)


def _unquoted(value: str, parameters: str) -> str:
    """Decode a vCard 2.1 quoted-printable value."""
    packed = _QUOTED_BYTE.sub(
        lambda match: bytes((int(match.group(1), 16),)), value.encode("utf-8", "replace")
    )
    charset = _CHARSET.search(parameters)
    try:
        return packed.decode(charset.group(1) if charset else "utf-8", "replace")
    except (LookupError, ValueError):
        return packed.decode("latin-1")


_CONTACT_KEYS = {"FN": "name", "UID": "uid", "ORG": "organization", "N": "structured_name"}


def photograph_contact(content: bytes) -> tuple[Kind, dict[str, Any]]:
    """Return the kind (contact, or contact-group for `KIND:group`) and what a photograph tells of a vCard."""
    kind = Kind.CONTACT
    metadata: dict[str, Any] = {}
    emails: list[str] = []
    members = 0
    for line in content_lines(content):
        name = line[0].removeprefix("X-ADDRESSBOOKSERVER-")
        if key := _CONTACT_KEYS.get(name):
            metadata.setdefault(key, _value(line))
        elif name == "KIND" and line[2].strip().lower() == "group":
            kind = Kind.CONTACT_GROUP
        elif name == "EMAIL":
            emails.append(_value(line))
        elif name == "MEMBER":
            members += 1
        elif name == "CATEGORIES":
            metadata.setdefault("tags", _tags(line))
    structured = metadata.pop("structured_name", "")
    if not metadata.get("name"):
        metadata["name"] = " ".join(part for part in reversed(structured.split(";")[:2]) if part)
    metadata["emails"] = emails[:RECIPIENTS_MAX]
    metadata["members"] = members
    return kind, _told(metadata)


_CALENDAR_KEYS = {
    "SUMMARY": "subject",
    "UID": "uid",
    "DTSTART": "start",
    "DTEND": "end",
    "DURATION": "duration",
    "DUE": "due",
    "STATUS": "status",
    "RRULE": "recurrence",
    "LOCATION": "location",
    "PERCENT-COMPLETE": "percent_complete",
    "ORGANIZER": "organizer",
}
_CALENDAR_KINDS = {"VEVENT": Kind.APPOINTMENT, "VTODO": Kind.TASK}


def photograph_calendar_item(content: bytes) -> tuple[Kind, dict[str, Any]]:
    """Return the kind (appointment, or task for VTODO) and what a photograph tells of an iCalendar file.

    The first VEVENT or VTODO counts; `components` is their number where there are several (overridden
    recurrences). Times stand as in the file, with their zone's name in `zone`.
    """
    kind: Kind | None = None
    metadata: dict[str, Any] = {}
    depth, components = 0, 0
    for line in content_lines(content):
        name, value = line[0], line[2]
        if name == "BEGIN":
            found = _CALENDAR_KINDS.get(value.strip().upper())
            components += found is not None
            kind = kind or found
            depth = 1 if found else depth + 1 if depth else 0
        elif name == "END":
            depth = max(0, depth - 1)
        elif depth == 1 and components == 1:
            _note_property(metadata, line)
    if components > 1:
        metadata["components"] = components
    return kind or Kind.APPOINTMENT, _told(metadata)


def _note_property(metadata: dict[str, Any], line: Line) -> None:
    name = line[0]
    if key := _CALENDAR_KEYS.get(name):
        metadata.setdefault(key, _value(line))
        if name == "DTSTART" and (zone := _ZONE.search(line[1])):
            metadata.setdefault("zone", clean_text(zone.group(1)))
    elif name == "ATTENDEE":
        metadata["attendees"] = metadata.get("attendees", 0) + 1
    elif name == "CATEGORIES":
        metadata.setdefault("tags", _tags(line))


def _tags(line: Line) -> list[str]:
    return sorted({tag for part in line[2].split(",")[:RECIPIENTS_MAX] if (tag := clean_text(part))})


def _told(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if value not in ("", [], 0)}
