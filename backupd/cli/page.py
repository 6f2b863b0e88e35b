"""The page: lines, fields and tables for people, by `rich` on a terminal and plain everywhere else.

`rich` is imported only where a terminal is there to be served: it costs as much time as all the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console

FIELD_WIDTH = 22
TEXT_CHARACTERS_MAX = 100
WHOLE_CHARACTERS_MAX = 36
"""Columns with no longer cell, such as dates and UUIDs, are never folded."""
FOLDED_CHARACTERS_MIN = 16
"""A column that must be folded into less is better read as a field."""
COLUMN_GAP = 2


class Page(Protocol):
    """Where a reply is shown. Texts must be harmless already (`text.visible`)."""

    def line(self, text: str = "", *, style: str = "") -> None:
        """Print one line."""
        ...

    def fields(self, pairs: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
        """Print names and values, one pair a line; pairs without a value are left out."""
        ...

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table."""
        ...


class PlainPage:
    """A page of nothing but characters."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def line(self, text: str = "", *, style: str = "") -> None:
        """Print one line; the style is for terminals."""
        del style
        self._out.write(f"{text}\n")

    def fields(self, pairs: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
        """Print aligned pairs."""
        for name, value in pairs:
            if value:
                self.line(f"{' ' * indent}{name:<{FIELD_WIDTH}}{value}")

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print aligned columns, two blanks between them, nothing cut."""
        lines = [list(headers), *(list(row) for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
        for line in lines:
            cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
            self.line("  ".join(cells).rstrip())


class RichPage:
    """A page on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str = "", *, style: str = "") -> None:
        """Print one line in a style; nothing in the text is markup."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def fields(self, pairs: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
        """Print aligned pairs, the names dim."""
        from rich.text import Text  # noqa: PLC0415 - see the module's first words

        for name, value in pairs:
            if value:
                text = Text(" " * indent).append(f"{name:<{FIELD_WIDTH}}", style="dim").append(value)
                self.console.print(text, soft_wrap=True)

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table that fits the terminal's width, long columns folded; where none fits, row by row."""
        from rich.cells import cell_len  # noqa: PLC0415 - see the module's first words
        from rich.table import Table  # noqa: PLC0415 - see the module's first words
        from rich.text import Text  # noqa: PLC0415 - see the module's first words

        lines = [tuple(row) for row in rows]
        widths = [
            max(cell_len(line[column]) for line in [tuple(headers), *lines]) for column in range(len(headers))
        ]
        least = [width if width <= WHOLE_CHARACTERS_MAX else FOLDED_CHARACTERS_MIN for width in widths]
        if sum(least) + COLUMN_GAP * len(headers) > self.console.width:
            for number, line in enumerate(lines):
                if number:
                    self.line()
                self.fields(zip(headers, line, strict=True))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, COLUMN_GAP, 0, 0))
        for header, width in zip(headers, widths, strict=True):
            table.add_column(header, overflow="fold", no_wrap=width <= WHOLE_CHARACTERS_MAX)
        for line in lines:
            table.add_row(*(Text(cell) for cell in line))
        self.console.print(table)


def is_terminal(out: TextIO) -> bool:
    """Tell whether a person with a capable terminal reads this."""
    return out.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def page_for(out: TextIO) -> Page:
    """Return the page that suits an output."""
    if not is_terminal(out):
        return PlainPage(out)
    from rich.console import Console  # noqa: PLC0415 - see the module's first words

    return RichPage(Console(file=out))


def page_width(out: TextIO) -> int:
    """Return the width for running text: the terminal's, but never more than one reads with ease."""
    try:
        columns = os.get_terminal_size(out.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return min(columns, TEXT_CHARACTERS_MAX) if columns else TEXT_CHARACTERS_MAX


def warn(text: str) -> None:
    """Print a line beside the output."""
    sys.stderr.write(f"backupctl: {text}\n")
