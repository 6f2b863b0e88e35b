"""Reading connections: one for each thread, and none is closed below somebody who reads."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupd.store.readers import Readers

ROWS = 2_000
ROUNDS = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "rows.sqlite"
    connection = sqlite3.connect(place)
    connection.execute("CREATE TABLE rows (number, text)")
    connection.executemany("INSERT INTO rows VALUES (?, ?)", ((number, "x" * 50) for number in range(ROWS)))
    connection.commit()
    connection.close()
    return place


def test_a_reading_in_progress_is_not_cut_off_by_the_close(path: Path) -> None:
    """Closing while other threads read ends in an error there at most, never in the end of the process."""
    for _ in range(ROUNDS):
        readers = Readers(path)
        began = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(_read_until_closed, readers, began)
            assert began.wait(10)
            readers.close()
            assert isinstance(reading.result(10), sqlite3.Error)


def _read_until_closed(readers: Readers, began: threading.Event) -> sqlite3.Error:
    try:
        while True:
            with readers.reading() as connection:
                began.set()
                connection.execute("SELECT count(*) FROM rows WHERE text LIKE '%y%'").fetchall()
    except sqlite3.Error as error:
        return error


def test_rows_half_read_are_closed_by_who_reads_them(path: Path) -> None:
    """A generator that outlives the close keeps its connection until it ends."""
    readers = Readers(path)
    with readers.reading() as connection:
        assert connection.execute("SELECT number FROM rows").fetchone() == (0,)
        readers.close()
        readers.close()
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"), readers.reading():
        pass


def test_readings_nest_and_share_the_connection_of_their_thread(path: Path) -> None:
    readers = Readers(path)
    with readers.reading() as outer, readers.reading() as inner:
        assert inner is outer
    readers.close()
