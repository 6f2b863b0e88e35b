"""Worker processes that end before their work does."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from backupd.jobs.coherency import workers
from backupd.jobs.coherency.workers import Lookers
from backupd.worker_processes import WorkerEnded, worker_end_told


def end(*_: object) -> None:
    """End the process, as a kill does."""
    os._exit(1)


def test_the_end_of_a_worker_is_told_where_work_is_given_and_taken() -> None:
    """Neither the work that a worker had, nor what is given to its pool afterwards, is met by a bug."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        given = pool.submit(end)
        wait([given])
        with pytest.raises(WorkerEnded, match="worker process ended"), worker_end_told():
            given.result()
        with pytest.raises(WorkerEnded, match="worker process ended"), worker_end_told():
            pool.submit(end)


def test_a_check_whose_worker_ends_tells_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps are under way."""

    def steps() -> Iterator[Any]:
        yield from range(20)

    monkeypatch.setattr(workers, "look_in_worker", end)
    with (
        Lookers(tmp_path, "", workers=2, pool_after_seconds=0) as lookers,
        pytest.raises(WorkerEnded, match="worker process ended"),
    ):
        list(lookers.results(steps()))
