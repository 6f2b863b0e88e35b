"""Items of the AppServer in memory: what one is, how it is photographed, and how its content is put back."""

from __future__ import annotations

from typing import Any

import msgspec

from backupd.appservers.base import Examined
from backupd.appservers.content_lines import photograph_calendar_item, photograph_contact
from backupd.appservers.file_trees import document_type
from backupd.appservers.headers import photograph_headers
from backupd.items import AREA_OF_KIND, Area, Kind, digest_of
from backupd.states import Photograph


class MemoryItem(msgspec.Struct):
    """One item with content; `listed` is what a listing tells of it."""

    kind: Kind
    folder: str
    content: bytes
    listed: dict[str, Any]

    @property
    def area(self) -> Area:
        """The area the item lives in."""
        return AREA_OF_KIND[self.kind]


def photograph_item(item: MemoryItem) -> dict[str, Any]:
    """Return an item's photograph."""
    match item.kind:
        case Kind.MESSAGE:
            return {**item.listed, **photograph_headers(item.content)}
        case Kind.DOCUMENT:
            return {**item.listed, "type": document_type(item.listed["name"])}
        case Kind.CONTACT | Kind.CONTACT_GROUP:
            return {**photograph_contact(item.content)[1], **item.listed}
        case _:
            return {**photograph_calendar_item(item.content)[1], **item.listed}


def examined(item: MemoryItem, *, is_readable: bool) -> Examined:
    """Return what is held as an item's content."""
    digest = digest_of(item.content)
    return Examined(
        size=len(item.content),
        digest=digest if is_readable else None,
        changed=str(item.listed["received" if item.kind is Kind.MESSAGE else "modified"]),
        version=f"{digest} {item.listed}",
    )


def put_content(item: MemoryItem, photograph: Photograph, content: bytes) -> None:
    """Give an item content, and the date as photographed."""
    when = "received" if item.kind is Kind.MESSAGE else "modified"
    item.content = content
    item.listed = {**item.listed, when: photograph.metadata.get(when, item.listed[when])}
    if "bytes" in item.listed:
        item.listed["bytes"] = len(content)
