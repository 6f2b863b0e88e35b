"""Logs of operations: copies of the lines that were logged for an operation, kept with it.

`OperationLogs.take` gets a copy of every line with an `operation` in it, from any thread, and never raises
or waits. Lines lie in memory for a moment and are then kept in the ledger: of each operation the first and
the last hundred, the others are counted. A daemon that is killed keeps what was kept until then. Lines are
forgotten together with their operation.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog

from backupd.clock import Clock, wait_until_set
from backupd.decoding import decoder
from backupd.errors import BackupdError
from backupd.store.ledger_tables import KeptLogs
from backupd.views import LogLineView

FIRST_LINES = 100
LAST_LINES = 100
FLUSH_SECONDS = 3.0
UNKEPT_OPERATIONS_MAX = 2_000
"""Operations whose lines wait in memory to be kept, at most; the oldest ones' go first."""
VALUE_CHARACTERS_MAX = 500
LINE_BYTES_MAX = 4_096
_OWN_FIELDS = frozenset({"operation", "timestamp", "level", "event"})

log = structlog.get_logger(__name__)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line as it is kept; `number` counts the operation's lines from 0."""

    number: int
    timestamp: str
    level: str
    event: str
    facts: dict[str, Any] = {}


_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = decoder(Line)


class _Unkept:
    """Lines of an operation that are not kept yet: the first and the last ones, and how many there were."""

    def __init__(self) -> None:
        self.first: list[dict[str, Any]] = []
        self.last: deque[tuple[int, dict[str, Any]]] = deque(maxlen=LAST_LINES)
        self.count = 0

    def add(self, event: dict[str, Any]) -> None:
        if len(self.first) < FIRST_LINES:
            self.first.append(event)
        else:
            self.last.append((self.count, event))
        self.count += 1

    def numbered(self) -> list[tuple[int, dict[str, Any]]]:
        return [*enumerate(self.first), *self.last]


class OperationLogs:
    """Collects, keeps and reads lines of operations."""

    def __init__(self, kept: KeptLogs, *, clock: Clock) -> None:
        self._kept = kept
        self._clock = clock
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        self._unkept: dict[str, _Unkept] = {}
        self._next_number: dict[str, int] = {}
        self._wake = asyncio.Event()

    def take(self, event: Mapping[str, Any]) -> None:
        """Take a copy of a line if it is an operation's; from any thread."""
        operation = event.get("operation")
        if not isinstance(operation, str) or not operation:
            return
        with self._lock:
            if operation not in self._unkept and len(self._unkept) >= UNKEPT_OPERATIONS_MAX:
                del self._unkept[next(iter(self._unkept))]
            self._unkept.setdefault(operation, _Unkept()).add(dict(event))

    async def run(self) -> None:
        """Keep lines every few seconds, and when asked to, until cancelled."""
        while True:
            await wait_until_set(self._wake, self._clock, FLUSH_SECONDS)
            self._wake.clear()
            await self.flush()

    def keep_soon(self) -> None:
        """Keep at once what was logged until now; from the event loop's thread."""
        self._wake.set()

    async def flush(self) -> None:
        """Keep what was logged until now; what can't be kept is lost, and that is logged."""
        if not self._unkept:
            return
        try:
            await asyncio.to_thread(self._keep)
        except (OSError, sqlite3.Error, BackupdError) as error:
            with structlog.contextvars.bound_contextvars(operation=""):
                log.error("operation_logs_not_kept", reason=str(error))

    async def lines(self, operations: Sequence[str], *, lines_max: int) -> tuple[list[LogLineView], int]:
        """Return the newest lines of operations, oldest first, and how many there were besides."""
        await self.flush()
        return await asyncio.to_thread(self._read, operations, lines_max)

    def _keep(self) -> None:
        with self._keeping:
            with self._lock:
                unkept, self._unkept = self._unkept, {}
            for operation, lines in unkept.items():
                begin = self._number_after_kept(operation)
                places = {
                    place_of(begin + number): encoded(begin + number, event)
                    for number, event in lines.numbered()
                }
                self._kept.add(operation, places)
                self._next_number[operation] = begin + lines.count
            for old in list(self._next_number)[:-UNKEPT_OPERATIONS_MAX]:
                del self._next_number[old]

    def _number_after_kept(self, operation: str) -> int:
        """Return the number of the operation's next line; an earlier process may have kept some."""
        if operation not in self._next_number:
            numbers = [line.number for line in self._lines_of(operation)]
            return max(numbers, default=-1) + 1
        return self._next_number[operation]

    def _lines_of(self, operation: str) -> list[Line]:
        found = []
        for content in self._kept.of(operation):
            try:
                found.append(_decoder.decode(content))
            except msgspec.DecodeError as error:
                log.error("log_line_not_readable", of_operation=operation, reason=str(error))
        return sorted(found, key=lambda line: line.number)

    def _read(self, operations: Sequence[str], lines_max: int) -> tuple[list[LogLineView], int]:
        found: list[LogLineView] = []
        total = 0
        # The newest operations first: what does not fit is of the oldest.
        for operation in reversed(operations):
            lines = self._lines_of(operation)
            total += lines[-1].number + 1 if lines else 0
            room = lines_max - len(found)
            newest = lines[len(lines) - min(room, len(lines)) :]
            found[:0] = [
                LogLineView(
                    operation=operation,
                    timestamp=line.timestamp,
                    level=line.level,
                    event=line.event,
                    facts=line.facts,
                )
                for line in newest
            ]
        return found, total - len(found)


def place_of(number: int) -> int:
    """Return where a line is kept: the first ones for good, of the others each in place of an older one."""
    return number if number < FIRST_LINES else FIRST_LINES + (number - FIRST_LINES) % LAST_LINES


def encoded(number: int, event: Mapping[str, Any]) -> bytes:
    """Return a line as it is kept, of bounded size, whatever its values are."""
    facts = {str(name): _short(value) for name, value in event.items() if name not in _OWN_FIELDS}
    line = Line(
        number=number,
        timestamp=str(event.get("timestamp", "")),
        level=str(event.get("level", "")),
        event=_text(event.get("event", "")),
        facts=facts,
    )
    try:
        content = _encoder.encode(line)
    except (TypeError, ValueError, RecursionError):
        content = b""
    if content and len(content) <= LINE_BYTES_MAX:
        return content
    share = LINE_BYTES_MAX // (6 * max(len(facts), 1))
    plain = {_text(name)[:50]: _text(value)[:share] for name, value in list(facts.items())[:40]}
    return _encoder.encode(msgspec.structs.replace(line, facts=plain))


def _short(value: Any) -> Any:
    """Return a value that is not too long for a line; of an exception its name and its text."""
    if isinstance(value, str):
        return value[:VALUE_CHARACTERS_MAX]
    if isinstance(value, list) and value and isinstance(value[0], dict) and "exc_type" in value[0]:
        return f"{value[0].get('exc_type')}: {value[0].get('exc_value')}"[:VALUE_CHARACTERS_MAX]
    return value


def _text(value: object) -> str:
    shown = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return shown[:VALUE_CHARACTERS_MAX]
