"""Looking at many shelves: in this process while there is little to do, then in worker processes.

Results come in the order of the steps, so that a run that ends early knows how far it came. Only a bounded
number of steps is under way at a time.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Self

from backupd.errors import BackupdError
from backupd.jobs.coherency.looking import Looked, Looker
from backupd.jobs.coherency.shelves import Step
from backupd.worker_processes import begin_worker, worker_end_told

POOL_AFTER_SECONDS = 2.0
"""So long one process looks alone: what is small is done before workers are there."""
_AHEAD = 3

_looker: Looker | None = None


class Lookers:
    """A looker here, and workers where it takes longer. Use as a context."""

    def __init__(
        self,
        root: Path,
        index: str,
        *,
        workers: int,
        gather: bool = False,
        catalog: str = "",
        pool_after_seconds: float = POOL_AFTER_SECONDS,
    ) -> None:
        self._arguments = (root, index, gather, catalog)
        self._workers = workers
        self._began = time.monotonic()
        self._pool_after_seconds = pool_after_seconds
        self._pool: ProcessPoolExecutor | None = None
        self.own = Looker(root, index, gather=gather, catalog=catalog)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; what they have not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self.own.close()

    def results(self, steps: Iterator[Step]) -> Iterator[Looked]:
        """Yield what looking at each step gave, in order. Raises what looking raises, and `WorkerEnded`."""
        pending: deque[Future[Looked]] = deque()
        for step in steps:
            pool = self._workers_due()
            if pool is None:
                yield self.own.look(step)
                continue
            with worker_end_told():
                pending.append(pool.submit(look_in_worker, step))
            if len(pending) >= self._workers * _AHEAD:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())

    def _workers_due(self) -> ProcessPoolExecutor | None:
        if self._pool is None and self._workers > 1:
            if time.monotonic() - self._began < self._pool_after_seconds:
                return None
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=_begin, initargs=self._arguments
            )
        return self._pool


def _result(looking: Future[Looked]) -> Looked:
    with worker_end_told():
        return looking.result()


def look_in_worker(step: Step) -> Looked:
    """Look at a step with what the worker was given when it began."""
    if _looker is None:
        message = "the worker was not begun"
        raise BackupdError(message)
    return _looker.look(step)


def _begin(root: Path, index: str, gather: bool, catalog: str) -> None:  # noqa: FBT001 - initargs have no names
    """Set a worker up."""
    global _looker  # noqa: PLW0603 - what a worker process has from its beginning on
    begin_worker()
    _looker = Looker(root, index, gather=gather, catalog=catalog)
