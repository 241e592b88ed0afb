"""Reads what comes next and writes what is done on threads, while the caller searches.

Searching, Parquet and digests run outside of Python's lock, so that both go on at once. What is held is bounded: one
item ahead, and one more that waits than there are threads.
"""

import collections
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields items, each made on another thread while the caller has the one before; errors come in its place."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming: Future[T | object] = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


class Behind:
    """Does work on threads; `with` waits for all of it, and an error of it is raised there or by the next call."""

    def __init__(self, threads: int = 1) -> None:
        """Starts them."""
        self._pool, self._most = ThreadPoolExecutor(threads), threads
        self._begun: collections.deque[Future[None]] = collections.deque()

    def do(self, work: Callable[..., None], *args: object) -> None:
        """Begins a piece of work, once few enough are waiting."""
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
        """Waits for all work; an error that is on its way goes before one of the work."""
        if error is None:
            self.finish()
        else:
            self._pool.shutdown(cancel_futures=True)
