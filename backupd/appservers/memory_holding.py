"""Contents that the AppServer in memory holds: the reference of what a `ContentHolder` means, for tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO

from backupd.appservers.base import Content, Held, Released
from backupd.appservers.opening import opened
from backupd.errors import AppServerRefused, AppServerUnavailable
from backupd.items import digest_of


class MemoryHolder:
    """Holds contents by digest. `refused`: why it can't at all; `unavailable`: why not at the moment."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.held_at: dict[str, datetime] = {}
        self.refused = ""
        self.unavailable = ""
        self.synced = 0

    def check(self) -> None:
        """Raise `AppServerRefused` where contents can't be held."""
        if self.refused:
            raise AppServerRefused(self.refused, hint="a test says so")

    def hold(self, content: Content) -> Held:
        """Keep a content."""
        self._reach()
        with opened(content) as file:
            whole = file.read(-1)
        digest = digest_of(whole)
        self.contents[digest] = whole
        self.held_at[digest] = datetime.now(UTC)
        return Held(digest=digest, size=len(whole))

    def make_durable(self) -> None:
        """Count that it was asked for."""
        self._reach()
        self.synced += 1

    def open(self, digest: str) -> BinaryIO | None:
        """Return a content as a file."""
        self._reach()
        content = self.contents.get(digest)
        return None if content is None else io.BytesIO(content)

    def contains(self, digest: str) -> bool:
        """Tell whether a content is held."""
        return digest in self.contents

    def digests(self) -> Iterator[str]:
        """Yield every digest."""
        self._reach()
        yield from list(self.contents)

    def release(self, is_needed: Callable[[str], bool], *, before: datetime) -> Released:
        """Let go of what is not needed."""
        self._reach()
        gone = [one for one in self.contents if self.held_at[one] < before and not is_needed(one)]
        size = sum(len(self.contents.pop(one)) for one in gone)
        return Released(contents=len(gone), bytes=size)

    def _reach(self) -> None:
        if self.unavailable:
            raise AppServerUnavailable(self.unavailable)
