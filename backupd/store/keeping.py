"""Keeping: where contents go as they are recorded, into the Backup Path or, in blobless mode, nowhere.

Blobless, the AppServer is asked to hold each content, so that a restore finds it there after its item was
deleted; the backup keeps digest and size. A state of which no blob was kept says so (`held`), and its missing
blob is no damage. Contents that are in the Backup Path already stay there, whatever the mode.

`stage` tells digest and size; `commit` makes durable what was staged, before anything refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from backupd.appservers.base import Content, ContentHolder, Held
from backupd.appservers.opening import opened
from backupd.states import State
from backupd.store.beyond import Staged
from backupd.store.blobs import Blobs

Kept = Staged | Held
"""A content on its way: staged in the Backup Path, or held by the AppServer."""


def _never() -> bool:
    return False


def _has_blob(state: State) -> bool:
    return not state.held and "content" not in state.lacking


class Keeping:
    """Keeps contents beside `blobs`; any thread may use it."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._blobless: Callable[[], bool] = _never
        self.holder: ContentHolder | None = None
        """What holds contents on the AppServer, where it can."""
        self.left = 0
        """How many contents wait to be fetched into the Backup Path, as far as somebody looked."""

    def leave_with(self, holder: ContentHolder, blobless: Callable[[], bool]) -> None:
        """Let `holder` hold contents while `blobless`; what is held is read from there whatever the mode."""
        self.holder, self._blobless = holder, blobless
        self._blobs.elsewhere = holder

    @property
    def is_blobless(self) -> bool:
        """Whether contents are left with the AppServer now."""
        return self.holder is not None and self._blobless()

    def stage(self, content: Content) -> Kept:
        """Store or hold a content. Raises `ItemVanished`, `AppServerUnavailable`, and as `Blobs.stage`."""
        if self.holder is not None and self._blobless():
            return self.holder.hold(content)
        with opened(content) as file:
            return self._blobs.stage(file)

    def commit(self, kept: Sequence[Kept]) -> None:
        """Make contents durable. Raises `AppServerUnavailable`, and as `Blobs.commit`."""
        if self.holder is not None and any(isinstance(one, Held) for one in kept):
            self.holder.make_durable()
        self._blobs.commit([one for one in kept if isinstance(one, Staged)])

    def discard(self, kept: Sequence[Kept]) -> None:
        """Drop what is not wanted after all; what is held goes once nobody needs it. Raises `VolumeError`."""
        self._blobs.discard([one for one in kept if isinstance(one, Staged)])

    def has(self, digest: str) -> bool:
        """Tell whether a content is kept already where the mode wants it."""
        if self._blobs.contains(digest):
            return True
        return self.holder is not None and self._blobless() and self.holder.contains(digest)

    def is_left(self, state: State, last: State | None) -> bool:
        """Tell whether a new state's content rests with the AppServer alone; `last` is the one before it.

        Most changes leave the content as it was, and nothing is looked up for them: a blob that `last` has
        stays, for a state refers to it.
        """
        if self.holder is None or (last is not None and last.digest == state.digest and _has_blob(last)):
            return False
        if state.digest is None or "content" in state.lacking:
            return False
        return not self._blobs.contains(state.digest) and self.holder.contains(state.digest)

    def not_fetched(self, is_referred: Callable[[str], bool]) -> Iterator[str]:
        """Yield the digests that are held, referred to, and no blobs. Raises `AppServerUnavailable`."""
        if self.holder is not None:
            for digest in self.holder.digests():
                if not self._blobs.contains(digest) and is_referred(digest):
                    yield digest
