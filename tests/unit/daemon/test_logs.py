"""Logs: the shape of a line, what is kept out of it, and levels that change at run time."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from backupd.config_sections import LogFormat, LogLevel
from backupd.secret import Secret
from daemon import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Give the process its own logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(form: LogFormat = LogFormat.JSON, level: LogLevel = LogLevel.INFO) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(form, level, stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object() -> None:
    """Time, level and event come first; facts follow as keys, whatever they are."""
    stream = configured()
    structlog.get_logger().info(
        "batch_journaled",
        first=1,
        at=datetime(2026, 11, 23, tzinfo=UTC),
        many=("a", "b"),
        odd=object,
        raw=b"x",
    )
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["event"] == "batch_journaled"
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")
    assert (line["first"], line["many"], line["at"]) == (1, ["a", "b"], "2026-11-23T00:00:00Z")


def test_odd_values_still_make_a_line() -> None:
    """Lone surrogates, huge numbers, odd keys and values that contain themselves never raise."""
    stream = configured()
    endless: dict[str, Any] = {}
    endless["again"] = endless
    log = structlog.get_logger()
    log.info("odd", path="caf\udce9", number=10**400)
    log.info("odder", table={("a", "b"): {1, 2}})
    log.info("newline", text="one\ntwo\x1b[31m")
    log.info("endless", table=endless)
    assert [line["event"] for line in lines(stream)] == ["odd", "odder", "newline", "endless"]


def test_secrets_do_not_reach_a_log() -> None:
    """Neither a `Secret` nor a value under a name that sounds like one is written, at any depth."""
    stream = configured()
    structlog.get_logger().info(
        "connected",
        password="hunter2",
        Authorization="hunter2",
        api_token="hunter2",
        wrapped=Secret("hunter2"),
        options={"client_secret": "hunter2", "inner": {"passwd": "hunter2"}, "host": "b"},
        listed=[{"password": "hunter2"}],
        password_file="/etc/backupd/broker.password",
    )
    assert "hunter2" not in stream.getvalue()
    (line,) = lines(stream)
    assert line["password_file"] == "/etc/backupd/broker.password"
    assert line["options"]["host"] == "b"


def test_long_texts_are_cut() -> None:
    """A text from outside can't fill the log."""
    stream = configured()
    structlog.get_logger().warning("event_refused", topic="x" * 1_000_000, table={"deep": "y" * 1_000_000})
    assert len(stream.getvalue()) < 10_000
    assert "1000000 characters" in stream.getvalue()


def test_exceptions_are_structured_and_without_variables() -> None:
    """An exception comes with its type, its frames and its cause, but without what variables held."""
    stream = configured()

    def fail() -> None:
        hunter = "hunter" + str(2)
        raise ValueError(len(hunter))

    try:
        try:
            fail()
        except ValueError as error:
            raise RuntimeError("around") from error
    except RuntimeError:
        structlog.get_logger().exception("broken")
    (line,) = lines(stream)
    assert [part["exc_type"] for part in line["exception"]] == ["RuntimeError", "ValueError"]
    assert line["exception"][1]["frames"][-1]["name"] == "fail"
    assert line["level"] == "error"
    assert "hunter2" not in stream.getvalue()


def test_the_level_changes_at_once() -> None:
    """A logger that was bound before hears of the new level with its next line."""
    stream = configured(level=LogLevel.WARNING)
    log = structlog.get_logger().bind(task="intake")
    log.info("unheard")
    log.warning("heard")
    logs.set_level(LogLevel.DEBUG)
    log.debug("heard_too")
    logs.set_level(LogLevel.ERROR)
    log.warning("unheard")
    log.error("at_last")
    assert [line["event"] for line in lines(stream)] == ["heard", "heard_too", "at_last"]


def test_libraries_speak_in_the_same_form() -> None:
    """Lines of the standard logging come out as ours do, with their library; noise does not."""
    stream = configured()
    logging.getLogger("library.client").info("connected to %s", "broker")
    logging.getLogger("amqtt.broker").info("noise")
    logging.getLogger("library.client").debug("noise")
    try:
        int("inside")
    except ValueError:
        logging.getLogger("library.client").exception("broken")
    said, broken = lines(stream)
    assert (said["event"], said["library"], said["text"]) == (
        "library_said",
        "library.client",
        "connected to broker",
    )
    assert broken["level"] == "error"
    assert broken["exception"][0]["exc_type"] == "ValueError"


def test_a_librarys_broken_line_raises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that don't fit a library's own text don't break the library's work."""
    configured()
    logging.getLogger("library.client").warning("%d events", "many")
    assert "Logging error" in capsys.readouterr().err


def test_people_get_a_readable_line() -> None:
    """The console's form is one plain line with the same facts, without colours where no terminal is."""
    stream = configured(LogFormat.CONSOLE)
    structlog.get_logger().info("batch_journaled", events=3, password="hunter2")
    text = stream.getvalue()
    assert "batch_journaled" in text
    assert "events=3" in text
    assert "hunter2" not in text
    assert "\x1b" not in text


def test_bound_facts_of_a_task_are_there() -> None:
    """What was bound for a task stands in every line of it."""
    stream = configured()
    with structlog.contextvars.bound_contextvars(operation="u1"):
        structlog.get_logger().info("inside")
    structlog.get_logger().info("outside")
    assert [line.get("operation") for line in lines(stream)] == ["u1", None]
