"""Which contents the AppServer lost, as pure values: what should be there, what is, and why that is damage.

A message's content never changes under its id, so whatever is otherwise than recorded is damage. Contacts,
appointments, tasks and documents are edited in place: with them only what is empty or can't be read is
damage, and only where nobody touched it since. An edit that no scan has seen yet is never undone.

A scan, or the AppServer's own watch, may have recorded the damage. So a recorded state that is empty, or a
message's that is the mere beginning of what it was before, is not believed; that before it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from backupd.appservers.base import Examined
from backupd.errors import UsageError
from backupd.items import AREA_OF_KIND, Area, Kind
from backupd.states import State

ALL = "all"
ITEMS_CHOICES = {
    ALL: frozenset(AREA_OF_KIND),
    "zimbra": frozenset(AREA_OF_KIND) - {Kind.DOCUMENT},
    "drive": frozenset({Kind.DOCUMENT}),
}
"""The words of the parameter `items`, and the kinds that each means."""
QUIET = timedelta(seconds=60)
"""What is edited in place and was emptied a shorter time ago may be in the middle of being written."""

IsBeginning = Callable[[State, State], bool]
"""Tells whether the content of the first state is how that of the second begins."""


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the mail storage that is meant: an area (None: all), or a folder in it and those below."""

    area: Area | None = None
    folder: str = ""

    def holds(self, kind: Kind, folder: str) -> bool:
        """Tell whether an item is in it."""
        if self.area is None:
            return True
        inside = not self.folder or folder == self.folder or folder.startswith(f"{self.folder}/")
        return AREA_OF_KIND.get(kind) is self.area and inside


def volume_of(word: str) -> Volume:
    """Return what `all`, `mail` or `mail/INBOX/Projects` means. Raises `UsageError`."""
    if word.casefold() == ALL:
        return Volume()
    name, _, folder = word.partition("/")
    try:
        return Volume(area=Area(name.casefold()), folder=folder)
    except ValueError:
        areas = ", ".join(area.value for area in Area)
        raise UsageError(
            f"there is no volume {word!r}",
            hint=f"valid: {ALL}, {areas}, or one of these with a folder, such as mail/INBOX",
        ) from None


class WantedContent(msgspec.Struct, frozen=True, kw_only=True):
    """The state whose content an item should have. `doubtful`: a message was recorded with others, too."""

    state: State
    doubtful: bool = False


def content_wanted(history: Sequence[State], is_beginning: IsBeginning) -> WantedContent | None:
    """Return the state that holds an item's true content, None where none was ever stored."""
    deletions = [number for number, state in enumerate(history) if state.deleted]
    here = history[deletions[-1] + 1 :] if deletions else history
    stored = [state for state in here if state.digest is not None and "content" not in state.lacking]
    if not stored:
        return None
    wanted = stored[-1]
    doubtful = False
    for earlier in reversed(stored[:-1]):
        if earlier.digest == wanted.digest:
            continue
        if _is_remnant(wanted, earlier, is_beginning):
            wanted = earlier
        elif earlier.size and wanted.kind is Kind.MESSAGE and not _is_remnant(earlier, wanted, is_beginning):
            doubtful = True
    return WantedContent(state=wanted, doubtful=doubtful)


def _is_remnant(later: State, earlier: State, is_beginning: IsBeginning) -> bool:
    """Tell whether a state is what damage left of another's content."""
    if later.kind is Kind.DOCUMENT or (later.size or 0) >= (earlier.size or 0):
        # A document may well be emptied by who owns it.
        return False
    return not later.size or (later.kind is Kind.MESSAGE and is_beginning(later, earlier))


class Condition(StrEnum):
    """How an item's content is."""

    WHOLE = "whole"
    LOST = "lost"
    EDITED = "edited"
    UNCLEAR = "unclear"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about one content; `reason` says what is wrong with it."""

    condition: Condition
    reason: str = ""


def judge(wanted: State, found: Examined, now: datetime) -> Judged:
    """Say whether what the AppServer holds is what was recorded, damage, or somebody's work."""
    size = wanted.size or 0
    if found.digest == wanted.digest:
        return Judged(condition=Condition.WHOLE)
    if found.digest is None:
        return _judge_unreadable(wanted, found)
    if wanted.kind is Kind.MESSAGE:
        return Judged(condition=Condition.LOST, reason=_what_is_wrong(found.size, size))
    if found.size:
        return Judged(condition=Condition.EDITED)
    if now - datetime.fromisoformat(found.changed) < QUIET:
        reason = f"it was emptied less than {QUIET.seconds} seconds ago and may be in the middle of an edit"
        return Judged(condition=Condition.UNCLEAR, reason=reason)
    return Judged(condition=Condition.LOST, reason=_what_is_wrong(0, size))


def _judge_unreadable(wanted: State, found: Examined) -> Judged:
    if wanted.kind is not Kind.MESSAGE:
        recorded = (wanted.size, wanted.metadata.get("modified"))
        if recorded != (found.size, found.changed):
            reason = "it can't be read, and was changed since it was recorded; see to its permissions"
            return Judged(condition=Condition.UNCLEAR, reason=reason)
    return Judged(condition=Condition.LOST, reason="it can't be read")


def _what_is_wrong(found: int, recorded: int) -> str:
    if not found:
        return f"it is empty instead of {recorded:,} bytes"
    if found < recorded:
        return f"it has {found:,} of {recorded:,} bytes"
    return f"its {found:,} bytes are not those recorded"
