"""Judging one history: pure, from where it lies and what its bytes are.

A history must hold states that can be read, in order, of one item that belongs exactly where the file lies.
What can be read is used all the same: a content is referred to by every state that can be read, and by every
digest that still stands in a damaged file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from backupd.errors import CorruptHistory
from backupd.items import SERVER_KINDS, ItemKey, Kind, file_name_of, identifier_of, is_digest, name_is_cut
from backupd.jobs.coherency.findings import Finding
from backupd.states import State
from backupd.store import history_format, layout
from backupd.store.history_format import Parsed

HISTORY_BYTES_MAX = 256 << 20
NUMBER_MAX = 2**63 - 1
_SERVER_KIND_OF = {directory: kind for kind, directory in layout.SERVER_DIRECTORIES.items()}
_NO_ITEMS = SERVER_KINDS | {Kind.ACCOUNT}
_DIGEST = re.compile(rb'"digest":"([A-Za-z0-9+,]{43}=)"')
_DECODER = msgspec.json.Decoder(State)


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a history is: `findings` about it, the states that can be read, and the item they tell of.

    `is_sound`: nothing is wrong with it, so that the index must say the same. `digests`: every content that
    it refers to.
    """

    findings: tuple[Finding, ...] = ()
    states: Sequence[State] = ()
    key: ItemKey | None = None
    is_sound: bool = False
    digests: frozenset[str] = frozenset()


def judge_history(path: str, content: bytes, *, is_known: bool = False) -> Judged:
    """Judge the bytes of a history at a relative path. `is_known`: the index has an item of this name."""
    states, code, detail = _read(path, content)
    digests = frozenset(one.decode() for one in _DIGEST.findall(content))
    account = _account_of(path)
    if not states:
        if code == "history.corrupt" and not (is_known or content.startswith(b"[")):
            return Judged(findings=(_finding("file.unknown", path, detail, account),), digests=digests)
        code = code if code == "history.corrupt" else "history.empty"
        return Judged(findings=(_finding(code, path, detail, account),), digests=digests)
    key = _key(path, states)
    items = (key.item,)
    if code:
        found = Finding(code=code, path=path, detail=detail, account=account, items=items)
        return Judged(findings=(found,), states=states, key=key, digests=digests)
    code, detail = _why_out_of_place(path, key, states)
    if not code:
        code, detail = _why_unusable(states)
    if code:
        found = Finding(code=code, path=path, detail=detail, account=account, items=items)
        return Judged(findings=(found,), states=states, key=key, digests=digests)
    return Judged(states=states, key=key, is_sound=True, digests=digests)


def mended(states: Sequence[State], sizes: Callable[[str], int | None]) -> list[State]:
    """Return states of which every content can be found: without digests that are none, with true sizes.

    `sizes` tells a stored content's true size, None where it is not known.
    """
    found = []
    for state in states:
        if state.digest is not None and not is_digest(state.digest):
            lacking = tuple(dict.fromkeys((*state.lacking, "content")))
            found.append(msgspec.structs.replace(state, digest=None, size=None, lacking=lacking))
            continue
        size = None if state.digest is None or state.size is None else sizes(state.digest)
        found.append(state if size is None else msgspec.structs.replace(state, size=size))
    return found


def merged(salvaged: Sequence[State], known: Sequence[State]) -> list[State]:
    """Return the states of a damaged history together with those that only the index still knows."""
    by_transaction: dict[int, State] = {state.transaction: state for state in known}
    by_transaction.update({state.transaction: state for state in salvaged})
    states: list[State] = []
    for _, state in sorted(by_transaction.items()):
        if history_format.is_ascending([*states[-1:], state]):
            states.append(state)
    return states


def right_place(path: str, key: ItemKey) -> str:
    """Return the relative path where a history of this item belongs, in the folder of its own account."""
    if path.startswith(f"{layout.SERVERS}/") or key.kind in SERVER_KINDS:
        return "/".join(layout.history_place(key))
    folder = "/".join(path.split("/")[:2])
    directory, name = layout.history_place(ItemKey("-", key.kind, key.item))
    below = directory.removeprefix(layout.account_directory("-"))
    return f"{folder}{below}/{name}"


def salvage(content: bytes) -> list[State]:
    """Return what can be read of a history, in order, and can be stored again."""
    return [state for state in _salvaged(content) if _is_storable(state)]


def told_sizes(states: Sequence[State]) -> dict[str, set[int]]:
    """Return the sizes that states tell of each content they need."""
    found: dict[str, set[int]] = {}
    for state in states:
        has_content = "content" not in state.lacking and not state.held
        if state.digest is not None and has_content and is_digest(state.digest):
            sizes = found.setdefault(state.digest, set())
            if state.size is not None:
                sizes.add(state.size)
    return found


def _read(path: str, content: bytes) -> tuple[Sequence[State], str, str]:
    """Return the states that can be read, and the code and words of what is wrong with the file's form."""
    try:
        parsed = history_format.parse(content, path)
    except CorruptHistory as error:
        detail = error.message.removeprefix(f"{path}: ")
        states = salvage(content)
        return states, "history.order" if _is_only_order(content) else "history.corrupt", detail
    except (RecursionError, TypeError) as error:
        return salvage(content), "history.corrupt", str(error)
    if not all(map(_is_storable, parsed.states)):
        detail = "a state's number or moment is none"
        return salvage(content), "history.corrupt", detail
    if len(parsed.states) < len(behind := salvage(content)):
        return behind, "history.corrupt", f"what stands at offset {parsed.end} is no state, others follow"
    return _sound_or_torn(parsed)


def _sound_or_torn(parsed: Parsed) -> tuple[Sequence[State], str, str]:
    if not parsed.states:
        return (), "history.empty", "it holds no state"
    if parsed.is_torn:
        return parsed.states, "history.torn", f"what was being written at offset {parsed.end} is cut short"
    return parsed.states, "", ""


def _salvaged(content: bytes) -> list[State]:
    try:
        return history_format.salvage(content)
    except (RecursionError, TypeError):
        return []


def _is_storable(state: State) -> bool:
    """Tell whether a state's numbers and moment are such as this software writes."""
    return (
        0 < state.transaction <= NUMBER_MAX
        and 0 <= (state.size or 0) <= NUMBER_MAX
        and state.start.tzinfo is not None
    )


def _is_only_order(content: bytes) -> bool:
    """Tell whether every line is a state, so that it is only their order that does not fit."""
    if not (content.startswith(history_format.OPENING) and content.endswith(history_format.CLOSING)):
        return False
    try:
        for line in content[len(history_format.OPENING) : -len(history_format.CLOSING)].split(b",\n"):
            _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _key(path: str, states: Sequence[State]) -> ItemKey:
    last = states[-1]
    account = _account_of(path)
    if path.endswith(f"/{layout.ACCOUNT_HISTORY}"):
        item = last.item or account
        return ItemKey(item, last.kind, item)
    return ItemKey(account, last.kind, last.item or identifier_of(path.rpartition("/")[2]))


def _account_of(path: str) -> str:
    """Return the account whose folder a path lies in, as far as the folder's name tells it."""
    parts = path.split("/")
    return identifier_of(parts[1]) if parts[0] == layout.ACCOUNTS and len(parts) > 1 else ""


def _why_out_of_place(path: str, key: ItemKey, states: Sequence[State]) -> tuple[str, str]:
    parts = path.split("/")
    name = parts[-1]
    kinds = {state.kind for state in states}
    if parts[0] == layout.SERVERS:
        fits = kinds == {_SERVER_KIND_OF.get(parts[1])}
    elif name == layout.ACCOUNT_HISTORY and len(parts) == 3:  # noqa: PLR2004 - accounts/<id>/account_info
        fits = kinds == {Kind.ACCOUNT}
        name = parts[1]
    else:
        fits = not kinds & _NO_ITEMS
    if not fits:
        return "history.foreign_kind", f"it tells of: {', '.join(sorted(kinds))}"
    told = {state.item for state in states}
    if len(told) > 1 or file_name_of(key.item) != name or ("" in told and _is_cut(name)):
        return "history.identity", f"its states name {', '.join(sorted(ascii(one)[:80] for one in told))}"
    if parts[0] == layout.ACCOUNTS and right_place(path, key) != path:
        return "history.misfiled", f"its place is {right_place(path, key)}"
    return "", ""


def _is_cut(name: str) -> bool:
    """Tell whether a file name was cut, so that the states themselves must name their item."""
    return "%%" in name or name_is_cut(identifier_of(name))


def _why_unusable(states: Sequence[State]) -> tuple[str, str]:
    for state in states:
        if state.digest is not None and not is_digest(state.digest):
            return "history.digest", f"state {state.transaction}: {state.digest[:80]!a} is no digest"
    return "", ""


def _finding(code: str, path: str, detail: str, account: str) -> Finding:
    return Finding(code=code, path=path, detail=detail, account=account)
