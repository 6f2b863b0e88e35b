"""Secrets: texts that show themselves to nobody, and where they are read from.

A `Secret` has no readable form but `revealed`: no log, message, pickle or JSON can show it by accident.
Secrets never come from the command line.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from backupd.errors import ConfigError

SECRET_BYTES_MAX = 4096


class Secret:
    """A text that is shown only to those who ask for it with `revealed`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def revealed(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not written anywhere")


def read_secret(path: Path) -> Secret:
    """Return the first line of a file as a secret; blocks. Raises `ConfigError` without any of it."""
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
        text = content.decode("utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"the secret in {path} can't be read: {reason}",
            hint="a file on the daemon's machine that the service's user may read",
        ) from error
    if not text or len(content) > SECRET_BYTES_MAX:
        raise ConfigError(
            f"{path} holds no secret in its first line", hint="write it there, and nothing else"
        )
    return Secret(text)


def everybody_may_read(path: Path) -> bool:
    """Tell whether a file is readable for everybody; False where that can't be told."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
