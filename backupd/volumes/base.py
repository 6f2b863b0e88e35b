"""Volume: where blobs rest, as a small protocol, and the rules that every implementation keeps.

Words: a *name* is a relative path of one to eight levels, joined by `/`, each of a strict alphabet (letters,
digits and `._@=,+~-`, not starting with a dot, at most 255 characters), so that it is safe as a path and as
an object key alike. *Staged* content is on the volume but has no name yet.

Invariants: content under a name never changes and is never overwritten; a name is seen with its whole
content or not at all. All methods block and may be called from any thread.

Failure: `NameMissing` and `NameRefused` are permanent (trying again can't help), `SpaceExhausted` passes
once there is space, any other `VolumeError` is permanent only where it says so. `get`, `size` and reading may
raise `ObjectDamaged`, which says nothing of other objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

from backupd.errors import VolumeError

LEVELS_MAX = 8
_NAME = re.compile(
    r"(?:[A-Za-z0-9_@=,+~-][A-Za-z0-9._@=,+~-]{0,254}/){0,7}[A-Za-z0-9_@=,+~-][A-Za-z0-9._@=,+~-]{0,254}\Z"
)


class NameMissing(VolumeError):
    """Nothing rests under this name. Permanent."""

    def __init__(self, name: str) -> None:
        super().__init__(f"nothing rests under {name!r}", permanent=True, name=name)


class ObjectDamaged(VolumeError):
    """What rests under a name is not what was put there: it is about this object, not about the volume."""


class NameRefused(VolumeError):
    """The name can't be used on any volume. Permanent."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name[:300]!r} is no name on a volume",
            permanent=True,
            hint=f"one to {LEVELS_MAX} levels of letters, digits and ._@=,+~- joined by '/'",
            name=name,
        )


def check_name(name: str) -> None:
    """Raise `NameRefused` unless a name can be used on every volume."""
    if _NAME.match(name) is None:
        raise NameRefused(name)


class ByteSource(Protocol):
    """Anything bytes can be read from, to an end told by no bytes; every file is one."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many of the next bytes; none at the end."""
        ...


class Volume(Protocol):
    """A place for contents under names."""

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content under a name, atomically and durably; True if stored, False if the name was there.

        Content that is there stays as it is, whatever the new content. Raises `NameRefused` (permanent),
        `SpaceExhausted` (nothing is left behind), `VolumeError`, and whatever reading `content` raises.
        """
        ...

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content for reading, whole or `length` bytes from `offset`; the caller closes.

        A range that reaches past the end ends there. Raises `NameMissing` and `NameRefused` (permanent),
        `VolumeError`; `ValueError` for a negative offset or length.
        """
        ...

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name. Raises `NameRefused` (permanent), `VolumeError`."""
        ...

    def delete(self, name: str) -> bool:
        """Remove content and name; False if there was none.

        Raises `NameRefused` (permanent), `VolumeError`.
        """
        ...

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield every name that starts with a text, sorted; of those put or deleted meanwhile some.

        Raises `VolumeError`.
        """
        ...

    def size(self, name: str) -> int:
        """Return the bytes that rest under a name.

        Raises `NameMissing`, `NameRefused` (permanent), `VolumeError`.
        """
        ...


class StagingVolume(Volume, Protocol):
    """A volume that takes many contents in a group: staged by any process, published by one."""

    def stage(self, content: bytes | ByteSource) -> str:
        """Store content without a name, not yet durably, and return the token that publishes it.

        May be called by several processes at once. Raises `SpaceExhausted` (nothing is left behind),
        `VolumeError`.
        """
        ...

    def publish(self, tokens: Sequence[tuple[str, str]]) -> None:
        """Give staged contents (token, name) their names; contents and names are durable on return.

        A name that is there keeps its content, and the staged one is dropped. Contents become durable before
        any name appears. After an error some names may have appeared, each whole, and contents that could
        not be made durable are dropped, for a disk that failed once to write them may say next time that it
        had: stage those again (a second `publish` raises `NameMissing` for them). Raises `NameRefused`
        (permanent, before anything is done), `NameMissing` for a token that is neither staged nor was
        published, `SpaceExhausted`, `VolumeError`.
        """
        ...

    def discard(self, tokens: Sequence[str]) -> None:
        """Drop staged contents; unknown tokens are nothing. Raises `VolumeError`."""
        ...
