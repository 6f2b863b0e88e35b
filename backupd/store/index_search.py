"""Searching the index: one question as a value, answered from the last states or from those of a moment.

The last states are searched by SQLite in one pass over the account's rows, with functions of ours for what
SQL has no word for: texts without regard to case (Unicode's full folding) and to the composition of accents
(NFC or NFD), and addresses that only the photograph holds. The same functions judge the past row by row.
"""

from __future__ import annotations

import heapq
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from backupd.clock import microseconds
from backupd.decoding import decoder
from backupd.items import Kind
from backupd.store import index_past
from backupd.store.index_queries import KnownItem, known_by_number

NAMES = ("subject", "summary", "name")
"""The keys of metadata that hold what an item is called, by preference."""


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched for.

    `text` is contained in name or sender; `after`: the last state is not older; `before`: the first state is
    not younger. `when` None: as everything is now. At most `limit` hits, the one changed last first.
    """

    kind: Kind | None = None
    folder: str | None = None
    recursive: bool = False
    text: str | None = None
    subject: str | None = None
    sender: str | None = None
    recipient: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    deleted: bool | None = None
    ignore_case: bool = False
    when: datetime | None = None
    limit: int = 1000


class _Addresses(msgspec.Struct):
    sender: Any = None
    from_: Any = msgspec.field(default=None, name="from")
    to: Any = None
    cc: Any = None
    bcc: Any = None


_ADDRESSES = decoder(_Addresses)
Condition = tuple[str, list[Any]]
Test = Callable[[KnownItem], bool]


def folded(text: str | None) -> str | None:
    """Return a text as it is compared without regard to case: canonical caseless matching, Unicode 3.13."""
    if text is None or text.isascii():
        return text and text.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


def search(connection: sqlite3.Connection, account: str, asked: Search) -> list[KnownItem]:
    """Return an account's items that fit, the one changed last first."""
    if asked.when is not None:
        items = index_past.items_at(connection, account, asked.when)
        return heapq.nsmallest(asked.limit, _fitting(items, asked), key=_newest_first)
    _teach(connection)
    conditions = list(_conditions(asked))
    where = " AND ".join(["items.account = ?", *(words for words, _ in conditions)])
    values = [account, *(value for _, some in conditions for value in some)]
    numbers = connection.execute(
        f"SELECT id FROM items WHERE {where} ORDER BY last DESC, item LIMIT ?",  # noqa: S608 - words of ours, values bound
        (*values, asked.limit),
    )
    return known_by_number(connection, [number for (number,) in numbers])


def _newest_first(item: KnownItem) -> tuple[int, str]:
    return -microseconds(item.last), item.item


def _teach(connection: sqlite3.Connection) -> None:
    """Give SQLite the functions that queries name; a connection learns them once, cheaply again."""
    connection.create_function("folded", 1, folded, deterministic=True)
    connection.create_function("senders", 1, senders, deterministic=True)
    connection.create_function("recipients", 1, recipients, deterministic=True)


def senders(metadata: str | bytes) -> str:
    """Return who sent an item, names and addresses, from its photograph as JSON."""
    found = _ADDRESSES.decode(metadata)
    return _joined(found.from_, found.sender)


def recipients(metadata: str | bytes) -> str:
    """Return to whom a message went, from its photograph as JSON."""
    found = _ADDRESSES.decode(metadata)
    return _joined(found.to, found.cc, found.bcc)


def _joined(*values: Any) -> str:
    """Return texts and lists of texts as one text; a publisher may have written anything else there."""
    lists = (value if isinstance(value, list | tuple) else (value,) for value in values)
    return "\n".join(one for several in lists for one in several if isinstance(one, str))


def _conditions(asked: Search) -> Iterator[Condition]:
    """Yield what must hold, as SQL with its values; what is cheap and rules out most comes first."""
    if asked.deleted is not None:
        yield "deleted = ?", [int(asked.deleted)]
    if asked.kind is not None:
        yield "kind = ?", [asked.kind.value]
    if asked.after is not None:
        yield "last >= ?", [microseconds(asked.after)]
    if asked.before is not None:
        yield "first <= ?", [microseconds(asked.before)]
    if asked.folder is not None:
        yield _in_folder(asked)
    if asked.text:
        words = f"(instr({_column('name', asked)}, ?) OR instr({_column('sender', asked)}, ?))"
        yield words, [_given(asked.text, asked)] * 2
    if asked.subject:
        yield f"instr({_column('name', asked)}, ?)", [_given(asked.subject, asked)]
    if asked.sender:
        yield f"instr({_column('senders(metadata)', asked)}, ?)", [_given(asked.sender, asked)]
    if asked.recipient:
        yield f"instr({_column('recipients(metadata)', asked)}, ?)", [_given(asked.recipient, asked)]


def _in_folder(asked: Search) -> Condition:
    folder = _given((asked.folder or "").strip("/"), asked)
    column = _column("folder", asked)
    if not asked.recursive:
        return f"{column} = ?", [folder]
    below = f"{folder}/" if folder else ""
    return f"({column} = ? OR substr({column}, 1, ?) = ?)", [folder, len(below), below]


def _column(name: str, asked: Search) -> str:
    return f"folded({name})" if asked.ignore_case else name


def _given(text: str, asked: Search) -> str:
    return (folded(text) or "") if asked.ignore_case else text


def _fitting(items: Iterable[KnownItem], asked: Search) -> Iterator[KnownItem]:
    """Yield the items of a moment that fit: the same judgement as that of SQL."""
    tests = list(_tests(asked))
    return (item for item in items if all(test(item) for test in tests))


def _tests(asked: Search) -> Iterator[Test]:
    if asked.deleted is not None:
        yield lambda item: item.deleted is asked.deleted
    if asked.kind is not None:
        yield lambda item: item.kind is asked.kind
    after, before = asked.after, asked.before
    if after is not None:
        yield lambda item: item.last >= after
    if before is not None:
        yield lambda item: item.first <= before
    if asked.folder is not None:
        folder = _given(asked.folder.strip("/"), asked)
        below = (f"{folder}/" if folder else "") if asked.recursive else None
        yield lambda item: _lies_in(_given(_text(item, "folder"), asked), folder, below)
    if asked.text:
        yield _contains(asked.text, asked, lambda item: f"{_name(item)}\n{_text(item, 'sender')}")
    if asked.subject:
        yield _contains(asked.subject, asked, _name)
    if asked.sender:
        told = ("from", "sender")
        yield _contains(asked.sender, asked, lambda item: _joined(*map(item.metadata.get, told)))
    if asked.recipient:
        given = ("to", "cc", "bcc")
        yield _contains(asked.recipient, asked, lambda item: _joined(*map(item.metadata.get, given)))


def _contains(wanted: str, asked: Search, text_of: Callable[[KnownItem], str]) -> Test:
    needle = _given(wanted, asked)
    return lambda item: needle in _given(text_of(item), asked)


def _lies_in(folder: str, wanted: str, below: str | None) -> bool:
    return folder == wanted or (below is not None and folder.startswith(below))


def _text(item: KnownItem, key: str) -> str:
    value = item.metadata.get(key)
    return value if isinstance(value, str) else ""


def _name(item: KnownItem) -> str:
    names = (item.metadata.get(key) for key in NAMES)
    return next((name for name in names if isinstance(name, str)), "")
