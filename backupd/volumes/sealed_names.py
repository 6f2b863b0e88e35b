"""Names on an encrypted volume: what they look like there, and listings in the right order.

The first level of a name stays as it is (`accounts`, `items`, `server`, …), so that an admin sees what is
what. Each level below is encrypted by AES-SIV (RFC 5297), which gives the same text for the same level in the
same place: a name can be looked up, and all that begin with the same levels can be listed. Who has no key
learns how many names there are, how long they are and which share a folder, but not what they say.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from backupd.errors import VolumeError

LEVEL_CHARACTERS_MAX = 170
"""A level that is encrypted has at most so many characters, so that its encrypted form is a level too."""
SORTED_IN_MEMORY_MAX = 100_000
"""So many names are sorted in memory at a time; runs of them lie in files until they are merged."""
_PAD = "="


class NameTooLong(VolumeError):
    """A level of the name is too long to be encrypted. Permanent."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name[:300]!r} has a level that is too long for an encrypted volume",
            permanent=True,
            hint=f"at most {LEVEL_CHARACTERS_MAX} characters a level",
            name=name,
        )


class NotOurs(Exception):
    """A name on the volume that was not made under this key."""


class SealedNames:
    """Turns names into those on the volume and back, under one key (`keyring.NAMES_KEY_BYTES`)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESSIV(key)

    def sealed(self, name: str) -> str:
        """Return the name on the volume. Raises `NameTooLong`."""
        first, *rest = name.split("/")
        path = first
        for level in rest:
            if not 0 < len(level) <= LEVEL_CHARACTERS_MAX:
                raise NameTooLong(name)
            encrypted = self._cipher.encrypt(level.encode(), [path.encode()])
            path += "/" + base64.urlsafe_b64encode(encrypted).decode().rstrip(_PAD)
        return path

    def opened(self, sealed: str) -> str:
        """Return the name that one on the volume stands for. Raises `NotOurs`."""
        path, *rest = sealed.split("/")
        levels = [path]
        for level in rest:
            try:
                encrypted = base64.b64decode(level + _PAD * (-len(level) % 4), altchars=b"-_", validate=True)
                levels.append(self._cipher.decrypt(encrypted, [path.encode()]).decode())
            except (InvalidTag, ValueError, binascii.Error):
                raise NotOurs(sealed) from None
            path += "/" + level
        return "/".join(levels)


def in_order(names: Iterable[str], *, in_memory_max: int = SORTED_IN_MEMORY_MAX) -> Iterator[str]:
    """Yield names sorted, with a bounded number of them in memory. Raises `OSError`."""
    source = iter(names)
    first = sorted(islice(source, in_memory_max))
    if len(first) < in_memory_max:
        yield from first
        return
    with ExitStack() as files:
        runs: list[Iterable[str]] = []
        run = first
        while run:
            file = files.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(f"{name}\n" for name in run)
            file.seek(0)
            runs.append(line.rstrip("\n") for line in file)
            run = sorted(islice(source, in_memory_max))
        yield from heapq.merge(*runs)
