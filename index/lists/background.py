"""Reads the next item and writes finished ones on threads, while the caller searches.

Searching, Parquet and digests run outside of Python's lock, so that they run at the same time. Memory is bounded: one
item is read ahead, and at most one more piece of work waits than there are threads.
"""

import collections
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields items, each made on another thread while the caller works on the one before, or raises its error."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming: Future[T | object] = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


class Behind:
    """Does work on threads; `with` waits for all of it. An error of the work is raised there or by the next call."""

    def __init__(self, threads: int = 1) -> None:
        """Starts them."""
        self._pool, self._most = ThreadPoolExecutor(threads), threads
        self._begun: collections.deque[Future[None]] = collections.deque()

    def do(self, work: Callable[..., None], *args: object) -> None:
        """Begins a piece of work as soon as few enough are waiting."""
        while len(self._begun) > self._most:
            self._begun.popleft().result()
        self._begun.append(self._pool.submit(work, *args))

    def finish(self) -> None:
        """Waits for all work."""
        with self._pool:
            while self._begun:
                self._begun.popleft().result()

    def __enter__(self) -> "Behind":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Waits for all work; an error that is already raised takes precedence over one of the work."""
        if error is None:
            self.finish()
        else:
            self._pool.shutdown(cancel_futures=True)
