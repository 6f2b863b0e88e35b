"""Differences: what changed between two states of an item, as typed values and in words; pure.

A *side* is an item as it was at a moment: a state of its history, or a row of the index. None is an item that
was not there yet, a deleted side one that was there no more. What another difference brings along is not told
twice: new content has another size and another time of change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from backupd.items import Kind

VALUE_CHARACTERS_MAX = 60
"""Longer values are cut in words; the values themselves are whole."""
_WITH_CONTENT = frozenset({"modified", "bytes"})
_TOLD_APART = frozenset({"folder", "flags", "tags", "area"})
_SECRET = re.compile(r"passw|secret|token|credential|private", re.IGNORECASE)
_KIB = 1024


class Way(StrEnum):
    """In which way an item differs."""

    CREATED = "created"
    RETURNED = "returned"
    DELETED = "deleted"
    MOVED = "moved"
    FLAG_ADDED = "flag-added"
    FLAG_REMOVED = "flag-removed"
    TAG_ADDED = "tag-added"
    TAG_REMOVED = "tag-removed"
    CONTENT = "content"
    COMPLETED = "completed"
    ATTRIBUTE = "attribute"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. `name` is the flag, the tag or the key of metadata; secrets have no values."""

    way: Way
    name: str = ""
    before: Any = None
    after: Any = None
    words: str = ""


class Side(Protocol):
    """An item at a moment, as far as differences go."""

    @property
    def deleted(self) -> bool:
        """Whether it was gone."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """Its photograph's metadata."""
        ...

    @property
    def digest(self) -> str | None:
        """The digest of its content."""
        ...

    @property
    def size(self) -> int | None:
        """The size of its content in bytes."""
        ...

    @property
    def lacking(self) -> tuple[str, ...]:
        """What could not be photographed."""
        ...


_FLAG_WORDS = {
    "seen": ("read", "marked unread"),
    "flagged": ("flagged important", "no longer flagged important"),
    "answered": ("answered", "no longer marked answered"),
    "forwarded": ("forwarded", "no longer marked forwarded"),
    "draft": ("marked as draft", "no longer a draft"),
    "deleted": ("marked for deletion", "no longer marked for deletion"),
}
"""What a flag set and a flag removed mean to people (IMAP's system flags, RFC 9051, 2.3.2)."""


def differences(before: Side | None, after: Side | None, kind: Kind) -> tuple[Difference, ...]:
    """Return what leads from one side of an item to a later one; nothing where both are the same."""
    if after is None or (before is not None and before.deleted and after.deleted):
        return ()
    if before is None and after.deleted:
        return (Difference(way=Way.DELETED, before=_place(after), words="gone before anybody saw it"),)
    if before is None:
        return (_came(after, kind, Way.CREATED),)
    if after.deleted:
        return (_went(before, kind),)
    found = list(_changed(before, after, kind))
    return (_came(after, kind, Way.RETURNED), *found) if before.deleted else tuple(found)


def in_words(found: Iterable[Difference]) -> str:
    """Return differences in one line of words."""
    return ", ".join(one.words for one in found) or "nothing that is told apart"


def _place(side: Side) -> str:
    return str(side.metadata.get("folder") or "")


def _in(folder: str) -> str:
    return f" in {folder}" if folder else ""


def _came(after: Side, kind: Kind, way: Way) -> Difference:
    folder = _place(after)
    verb = "created" if way is Way.CREATED else "back"
    words = f"{verb} as {folder or '/'}" if kind is Kind.FOLDER else f"{verb}{_in(folder)}"
    if after.size is not None:
        words += f" ({_size(after.size)})"
    return Difference(way=way, after=folder, words=words)


def _went(before: Side, kind: Kind) -> Difference:
    folder = _place(before)
    words = "deleted" if kind is Kind.FOLDER or not folder else f"deleted from {folder}"
    return Difference(way=Way.DELETED, before=folder, words=words)


def _changed(before: Side, after: Side, kind: Kind) -> Iterable[Difference]:
    if before.lacking and not after.lacking and not before.metadata:
        yield Difference(way=Way.COMPLETED, words=f"read for the first time{_in(_place(after))}")
        return
    old, new = _place(before), _place(after)
    if old != new:
        verb = "renamed" if kind is Kind.FOLDER else "moved"
        words = f"{verb} {old or '/'} -> {new or '/'}"
        yield Difference(way=Way.MOVED, before=old, after=new, words=words)
    yield from _flags(before.metadata, after.metadata)
    yield from _tags(before.metadata, after.metadata)
    is_other = before.digest != after.digest
    if is_other:
        words = f"content changed {_size(before.size)} -> {_size(after.size)}"
        yield Difference(way=Way.CONTENT, before=before.size, after=after.size, words=words)
    yield from _attributes(before.metadata, after.metadata, _WITH_CONTENT if is_other else frozenset())


def _flags(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[Difference]:
    before, after = _set(old.get("flags")), _set(new.get("flags"))
    for flag in sorted(after - before):
        words = _FLAG_WORDS.get(flag, (f"flag {flag} set", ""))[0]
        yield Difference(way=Way.FLAG_ADDED, name=flag, words=words)
    for flag in sorted(before - after):
        words = _FLAG_WORDS.get(flag, ("", f"flag {flag} removed"))[1]
        yield Difference(way=Way.FLAG_REMOVED, name=flag, words=words)


def _tags(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[Difference]:
    before, after = _set(old.get("tags")), _set(new.get("tags"))
    for tag in sorted(after - before):
        yield Difference(way=Way.TAG_ADDED, name=tag, words=f"tagged {tag}")
    for tag in sorted(before - after):
        yield Difference(way=Way.TAG_REMOVED, name=tag, words=f"tag {tag} removed")


def _attributes(old: Mapping[str, Any], new: Mapping[str, Any], told: frozenset[str]) -> Iterable[Difference]:
    for name in sorted((old.keys() | new.keys()) - _TOLD_APART - told):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if _SECRET.search(name):
            yield Difference(way=Way.ATTRIBUTE, name=name, words=f"{name} changed")
            continue
        if before is None:
            words = f"{name} set to {_value(after)}"
        elif after is None:
            words = f"{name} removed, it was {_value(before)}"
        else:
            words = f"{name} changed {_value(before)} -> {_value(after)}"
        yield Difference(way=Way.ATTRIBUTE, name=name, before=before, after=after, words=words)


def _set(value: Any) -> frozenset[str]:
    """Return flags or tags as a set; a publisher may have written anything there."""
    return frozenset(str(one) for one in value) if isinstance(value, list | tuple) else frozenset()


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}…"
    return f'"{text}"' if isinstance(value, str) else text


def _size(count: int | None) -> str:
    """Return bytes as people read them; small ones exactly."""
    if count is None:
        return "nothing"
    if count < _KIB:
        return f"{count} B"
    if count < _KIB * _KIB:
        return f"{count / _KIB:.1f} KiB"
    return f"{count / _KIB / _KIB:.1f} MiB"
