"""Retrying: a volume that asks another one again when an error may pass by itself, within a budget.

Only transient `VolumeError`s are tried again; permanent ones, a full store and bugs are raised at once. Waits
grow exponentially with jitter, so that many clients don't come back at the same moment; what the store asked
to wait is kept to. When the budget of attempts or of seconds is spent, the last error is raised. A store that
failed as often as one call may be tried, whoever asked, is away: until it answers again each call is tried
once, so that a thousand callers don't spend a thousand budgets on it.

Invariants: content is read again from its beginning for each attempt. A reading that breaks off is begun
anew, and goes on behind what was handed out only if that part has the same SHA-256 again: the whole is then
right if the volume below says at its end that it is. Where it has not, `read()` of everything begins again;
who reads bit by bit has wrong bytes already and is told so by `CorruptObject`. After an attempt whose outcome
is unknown, `put` may say False, and `delete` too, for what the earlier attempt did.
"""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

import msgspec

from backupd.errors import VolumeError
from backupd.volumes.base import ByteSource, Volume
from backupd.volumes.failures import CorruptObject, VolumeBusy
from backupd.volumes.listing import names_after
from backupd.volumes.rewinding import rewindable

WHOLE_BYTES_MAX = 16 << 20
READ_BYTES = 1 << 20
T = TypeVar("T")


class RetryBudget(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how long one call may be tried; each wait is up to twice the one before."""

    attempts: int = 6
    seconds: float = 120.0
    first_wait_seconds: float = 0.25
    wait_seconds_max: float = 30.0

    def wait_seconds(self, failures: int, asked: float, chance: float) -> float:
        """Return how long to wait after so many failures: half at least, the rest by `chance` (0 to 1)."""
        bound = min(self.first_wait_seconds * 2.0 ** (failures - 1), self.wait_seconds_max)
        return max(bound * (0.5 + chance / 2), asked)


class Retrying:
    """Passes everything on, again if need be.

    `sleep` waits blocking; what it raises ends the attempts, so that a process that stops need not wait.
    """

    def __init__(
        self,
        volume: Volume,
        budget: RetryBudget | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.volume = volume
        self.budget = budget or RetryBudget()
        self._monotonic = monotonic
        self._sleep = sleep
        self._chance = chance
        self._failures_in_a_row = 0

    def put(self, name: str, content: bytes | ByteSource) -> bool:
        """Store content; see `Volume.put`."""
        with rewindable(content, WHOLE_BYTES_MAX) as replay:
            return self._tried(lambda: self.volume.put(name, replay.rewound()))

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open content; see `Volume.get`. Reading goes on by itself where it breaks off."""
        attempts = self.attempts()

        def open_at(start: int, size: int | None) -> BinaryIO:
            return self.volume.get(name, offset=start, length=size)

        file = attempts.tried(lambda: open_at(offset, length))
        return io.BufferedReader(_ResumingReader(file, open_at, offset, length, attempts), READ_BYTES)

    def exists(self, name: str) -> bool:
        """Tell whether content rests under a name; see `Volume.exists`."""
        return self._tried(lambda: self.volume.exists(name))

    def delete(self, name: str) -> bool:
        """Remove content; see `Volume.delete`."""
        return self._tried(lambda: self.volume.delete(name))

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names, going on where a listing broke off; see `Volume.names`."""
        return self.names_after(prefix, "")

    def names_after(self, prefix: str, after: str) -> Iterator[str]:
        """Yield names after a given one; see `listing.ListsFromMiddle`."""
        last = after
        attempts = self.attempts()
        while True:
            try:
                for name in names_after(self.volume, prefix, last):
                    last = name
                    yield name
                    self._note(None)
                    attempts = self.attempts()  # each stretch of a long listing has a budget of its own
            except VolumeError as error:
                attempts.after(error)
            else:
                return

    def size(self, name: str) -> int:
        """Return the bytes under a name; see `Volume.size`."""
        return self._tried(lambda: self.volume.size(name))

    def attempts(self) -> Attempts:
        """Return a fresh budget, of one attempt only while the store is away."""
        is_away = self._failures_in_a_row >= self.budget.attempts
        budget = msgspec.structs.replace(self.budget, attempts=1) if is_away else self.budget
        return Attempts(budget, self._monotonic, self._sleep, self._chance, self._note)

    def _note(self, error: VolumeError | None) -> None:
        is_away = error is not None and not error.permanent
        self._failures_in_a_row = self._failures_in_a_row + 1 if is_away else 0

    def _tried(self, ask: Callable[[], T]) -> T:
        return self.attempts().tried(ask)


class Attempts:
    """The budget of one call as it is spent."""

    def __init__(
        self,
        budget: RetryBudget,
        monotonic: Callable[[], float],
        sleep: Callable[[float], object],
        chance: Callable[[], float],
        note: Callable[[VolumeError | None], None],
    ) -> None:
        self._note = note
        self._budget = budget
        self._monotonic = monotonic
        self._sleep = sleep
        self._chance = chance
        self._began = monotonic()
        self._failures = 0

    def tried(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns, in the end. Raises its last error when the budget is spent."""
        while True:
            try:
                found = ask()
            except VolumeError as error:
                self.after(error)
            else:
                self._note(None)
                return found

    def progressed(self) -> None:
        """Count the seconds from now: a long reading may take its time as long as it goes on."""
        self._began = self._monotonic()

    def after(self, error: VolumeError) -> None:
        """Wait before the next attempt, or raise the error if there must be none."""
        self._failures += 1
        self._note(error)
        if error.permanent or self._failures >= self._budget.attempts:
            raise error
        asked = error.wait_seconds if isinstance(error, VolumeBusy) else 0.0
        wait = self._budget.wait_seconds(self._failures, asked, self._chance())
        if self._monotonic() - self._began + wait > self._budget.seconds:
            raise error
        self._sleep(wait)


class _ResumingReader(io.RawIOBase):
    """Reads a content that may break off, as one content."""

    def __init__(
        self,
        file: BinaryIO,
        open_at: Callable[[int, int | None], BinaryIO],
        offset: int,
        length: int | None,
        attempts: Attempts,
    ) -> None:
        super().__init__()
        self._file = file
        self._open_at = open_at
        self._offset = offset
        self._length = length
        self._attempts = attempts
        self._digest = hashlib.sha256()
        self._read = 0
        self._nothing_out = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: WriteableBuffer
        content = self._next(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        """Return everything that is left; of content read at once nothing is handed out before its end."""
        if self._read:
            return self._rest()
        self._nothing_out = True
        while True:
            try:
                return self._rest()
            except _BeginAnew as error:
                self._attempts.after(error.cause)
                self._attempts.tried(self._open)
                self._digest, self._read = hashlib.sha256(), 0

    def close(self) -> None:
        self._file.close()
        super().close()

    def _rest(self) -> bytes:
        return b"".join(iter(lambda: self._next(READ_BYTES), b""))

    def _next(self, size: int) -> bytes:
        while True:
            try:
                content = self._file.read(size)
            except VolumeError as error:
                self._attempts.after(error)
                self._attempts.tried(self._reopen)
            else:
                self._read += len(content)
                self._digest.update(content)
                self._attempts.progressed()
                return content

    def _open(self) -> None:
        self._file.close()
        self._file = self._open_at(self._offset, self._length)

    def _reopen(self) -> None:
        """Open again and read up to where the reading broke off; those bytes must be the same ones."""
        self._open()
        digest = hashlib.sha256()
        missing = self._read
        while missing > 0 and (chunk := self._file.read(min(missing, READ_BYTES))):
            digest.update(chunk)
            missing -= len(chunk)
        if digest.digest() != self._digest.digest():
            differs = CorruptObject("the content read anew differs from what was read before it broke off")
            raise _BeginAnew(differs) if self._nothing_out else differs
        assert not missing, "the same bytes are as many"


class _BeginAnew(Exception):
    """What was read so far is wrong, or what is read now; nobody has any of it yet."""

    def __init__(self, cause: CorruptObject) -> None:
        super().__init__(str(cause))
        self.cause = cause
