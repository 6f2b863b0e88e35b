"""Opening a content: whatever goes wrong with its bytes is told as the AppServer's error.

So that a bad sector under one message is never taken for a Backup Path that can't be written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from backupd.appservers.base import Content
from backupd.errors import AppServerUnavailable


class SourceFile:
    """Reads a content's bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, none at the end. Raises `AppServerUnavailable`."""
        try:
            return self._file.read(size)
        except OSError as error:
            raise _unreadable(error) from error


@contextmanager
def opened(content: Content) -> Iterator[SourceFile]:
    """Open a content. Raises `ItemVanished`, `AppServerUnavailable`."""
    try:
        file = content.open()
    except OSError as error:
        raise _unreadable(error) from error
    with file:
        yield SourceFile(file)


def _unreadable(error: OSError) -> AppServerUnavailable:
    return AppServerUnavailable(f"the content can't be read: {error.strerror or error}")
