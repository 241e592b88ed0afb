"""Micro-batching: photographs of requests that arrive together share one call of the model.

One thread calls the model. While it does, requests gather; the next call takes those that ask for the same things, up
to `Limits.batch` photographs. A call that fails is repeated for each request alone, so that only the one at fault does.
"""

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from model.recognition.results import Neighbor, Prediction
from model.service.limits import Limits, refusal
from model.service.metrics import Metrics
from model.service.predictor import Predictor

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a request asks for beside its photographs; the arguments of `Recognizer.predict`."""

    head: str = ""
    top: int = 5
    influence: bool = False


@dataclasses.dataclass(frozen=True)
class _Job:
    images: Sequence[Any]
    wanted: Wanted
    answer: "asyncio.Future[list[Prediction]]"


class Batcher:
    """The one who calls the recogniser; used from one event loop."""

    def __init__(self, recognizer: Predictor, limits: Limits, metrics: Metrics) -> None:
        """Starts nothing yet."""
        self._recognizer, self._limits, self._metrics = recognizer, limits, metrics
        self._jobs: deque[_Job] = deque()
        self._arrived, self._queued = asyncio.Event(), 0
        self._thread = ThreadPoolExecutor(1, "model")
        self._running: asyncio.Task[None] | None = None

    async def predict(self, images: Sequence[Any], wanted: Wanted) -> list[Prediction]:
        """Returns what the recogniser predicts for images that it has read.

        Raises:
            HTTPException: 503, if too many photographs wait.
            UserError: of the recogniser.
        """
        if self._queued + len(images) > self._limits.queue:
            raise refusal(503, "too many photographs wait for the model; try again in a moment")
        job = _Job(images, wanted, asyncio.get_running_loop().create_future())
        self._count(len(images))
        self._jobs.append(job)
        self._arrived.set()
        return await job.answer

    async def search(self, **asked: Any) -> list[Neighbor]:
        """Returns what the recogniser finds; arguments and errors as those of `Recognizer.search`."""
        return await self._call(lambda: self._recognizer.search(**asked))

    def start(self) -> None:
        """Starts to work."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Answers what was asked, and stops."""
        while self._queued:
            await asyncio.sleep(0.01)
        if self._running:
            self._running.cancel()
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if self._queued < self._limits.batch:
                await asyncio.sleep(self._limits.wait_secs)
            batch = self._take()
            try:
                await self._answer(batch)
            finally:
                self._count(-sum(len(job.images) for job in batch))

    def _take(self) -> list[_Job]:
        """Returns the jobs of the next call, at least one, and leaves the others in their order."""
        batch, left, room = [self._jobs.popleft()], deque[_Job](), self._limits.batch
        room -= len(batch[0].images)
        for job in self._jobs:
            if job.wanted == batch[0].wanted and len(job.images) <= room:
                batch.append(job)
                room -= len(job.images)
            else:
                left.append(job)
        self._jobs = left
        if not left:
            self._arrived.clear()
        return batch

    async def _answer(self, batch: list[_Job]) -> None:
        images = [image for job in batch for image in job.images]
        self._metrics.batches.observe(len(images))
        try:
            found = await self._predict(images, batch[0].wanted)
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    await self._answer([job])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for job in batch:
            own, found = found[: len(job.images)], found[len(job.images) :]
            # One whose client has gone is done already.
            if not job.answer.done():
                job.answer.set_result(own)

    async def _predict(self, images: list[Any], wanted: Wanted) -> list[Prediction]:
        return await self._call(lambda: self._recognizer.predict(images, **dataclasses.asdict(wanted)))

    async def _call(self, work: Callable[[], _T]) -> _T:
        begin = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._metrics.model.observe(time.perf_counter() - begin)

    def _count(self, more: int) -> None:
        self._queued += more
        self._metrics.queued.set(self._queued)
