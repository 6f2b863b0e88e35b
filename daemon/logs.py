"""Logs: one structured line per event on standard error, as JSON or for people, without secrets.

Lines of the libraries (the standard `logging`) come out in the same form. Exceptions are structured, with
their frames and causes but without local variables, which could hold anything. Values under names that sound
like secrets are replaced, long texts are cut. The level can be changed at any time, also for loggers bound
before. A line that can't be encoded or written never raises. Whoever asked for it (`copy_to`) gets a copy of
every line that is written, without its secrets. Warnings and errors are counted by event.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any, TextIO

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from backupd.clock import written
from backupd.config_sections import LogFormat, LogLevel

TEXT_CHARACTERS_MAX = 4_000
FRAMES_MAX = 30
EVENTS_COUNTED_MAX = 200
"""So many names of events are counted singly, the others together as `OTHER_EVENTS`."""
OTHER_EVENTS = "other"
DEPTH_MAX = 6
_SECRET_WORDS = ("password", "passwd", "secret", "token", "credential", "authorization", "private_key")
_HARMLESS = ("password_file", "password_path")
_REDACTED = "(secret)"
_QUIET = ("amqtt", "transitions", "asyncio", "aiohttp.access", "watchfiles", "websockets")
"""Libraries whose lines below a warning are of no use to an admin."""

_LEVELS = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}
_NUMBERS = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "exception": 40, "critical": 50}

_EventDict = MutableMapping[str, Any]


class _Threshold:
    """The level in force, in one place for every logger."""

    level = logging.INFO

    def __call__(self, _logger: Any, method: str, event: _EventDict) -> _EventDict:
        if _NUMBERS.get(method, logging.ERROR) < self.level:
            raise structlog.DropEvent
        return event


_threshold = _Threshold()


class _Copies:
    """Who gets copies of lines, in one place for every logger."""

    taker: Callable[[Mapping[str, Any]], None] | None = None

    def __call__(self, _logger: Any, _method: str, event: _EventDict) -> _EventDict:
        if self.taker is not None:
            self.taker(event)
        return event


_copies = _Copies()


class _Tally:
    """How many warnings and errors there were since the process began, written or not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def __call__(self, _logger: Any, method: str, event: _EventDict) -> _EventDict:
        number = _NUMBERS.get(method, logging.ERROR)
        if number >= logging.WARNING:
            key = ("error" if number >= logging.ERROR else "warning", str(event.get("event", ""))[:100])
            with self._lock:
                is_full = len(self._counts) >= EVENTS_COUNTED_MAX and key not in self._counts
                self._counts[(key[0], OTHER_EVENTS) if is_full else key] += 1
        return event

    def counts(self) -> dict[tuple[str, str], int]:
        with self._lock:
            return dict(self._counts)


_tally = _Tally()


def configure(form: LogFormat, level: LogLevel, *, stream: TextIO | None = None) -> None:
    """Set up logging for the process; calling it again changes everything."""
    stream = sys.stderr if stream is None else stream
    set_level(level)
    structlog.configure(
        processors=[_tally, _threshold, *_shared(form), _renderer(form, stream)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(_FromLibraries())
    root.setLevel(logging.DEBUG)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def logged() -> dict[tuple[str, str], int]:
    """Return how many warnings and errors there were since the process began, by (level, event)."""
    return _tally.counts()


def set_level(level: LogLevel) -> None:
    """Change the level, from the next line on."""
    _threshold.level = _LEVELS[level]


def copy_to(taker: Callable[[Mapping[str, Any]], None] | None) -> None:
    """Give a copy of every line to `taker` from now on; None: to nobody. It must neither raise nor log."""
    _copies.taker = taker


def _shared(form: LogFormat) -> list[Any]:
    steps: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if form is LogFormat.JSON:
        transformer = ExceptionDictTransformer(show_locals=False, max_frames=FRAMES_MAX)
        steps.append(structlog.processors.ExceptionRenderer(transformer))
    if form is LogFormat.CONSOLE:
        steps.append(_with_readable_moments)
    return [*steps, _without_secrets, _copies]


def _with_readable_moments(_logger: Any, _method: str, event: _EventDict) -> _EventDict:
    for key, value in event.items():
        if isinstance(value, datetime):
            event[key] = written(value)
    return event


def _renderer(form: LogFormat, stream: TextIO) -> Any:
    match form:
        case LogFormat.JSON:
            return _as_json
        case LogFormat.CONSOLE:
            return structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )


def _as_json(_logger: Any, _method: str, event: _EventDict) -> str:
    """Return the line; time, level and event come first, so that a person finds them too."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    try:
        return msgspec.json.encode({**first, **event}, enc_hook=str).decode()
    except (TypeError, ValueError, RecursionError):
        # A key that is no text, a number out of range, a text with lone surrogates: the line is worth more.
        plain = {_text(key): _text(value) for key, value in {**first, **event}.items()}
        return msgspec.json.encode(plain).decode()


def _text(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")[:TEXT_CHARACTERS_MAX]


def _without_secrets(_logger: Any, _method: str, event: _EventDict) -> _EventDict:
    for key, value in event.items():
        if _sounds_secret(str(key)) and value not in (None, "", True, False):
            event[key] = _REDACTED
        elif key != "exception":
            event[key] = _bounded(value)
    return event


def _sounds_secret(key: str) -> bool:
    folded = key.casefold()
    return folded not in _HARMLESS and any(word in folded for word in _SECRET_WORDS)


def _bounded(value: Any, depth: int = DEPTH_MAX) -> Any:
    """Return a value with texts cut and, in tables and lists within it, secrets replaced."""
    if isinstance(value, str) and len(value) > TEXT_CHARACTERS_MAX:
        return f"{value[:TEXT_CHARACTERS_MAX]}… ({len(value)} characters)"
    if not isinstance(value, dict | list | tuple):
        return value
    if depth == 0:
        return "(deeper)"
    if isinstance(value, dict):
        return {
            key: _REDACTED if _sounds_secret(str(key)) and inner else _bounded(inner, depth - 1)
            for key, inner in value.items()
        }
    return [_bounded(inner, depth - 1) for inner in value]


class _FromLibraries(logging.Handler):
    """Hands the lines of the standard `logging` on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a library's line; what it says stands under `text`."""
        level = next(
            (name for name in ("error", "warning", "info") if record.levelno >= _NUMBERS[name]), "debug"
        )
        try:
            structlog.get_logger().log(
                _NUMBERS[level],
                "library_said",
                library=record.name,
                text=record.getMessage(),
                exc_info=record.exc_info,
            )
        except Exception:  # noqa: BLE001 - logging must not raise into a library's work
            self.handleError(record)
