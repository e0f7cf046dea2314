"""Who decides what an engine computes next."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from albert_act_fast.serve.engine import Engine, EngineDied
from albert_act_fast.serve.errors import ServiceError, overloaded
from albert_act_fast.serve.fair_queue import FairQueue, Item, Job
from albert_act_fast.text.tokenize import TokenizedText

# A text is given up after so many workers died over it.
_MOST_DEATHS = 2
# How much of the measured speed each batch renews.
_NEWEST = 0.2


class Clock(Protocol):
    """Time in seconds, as asyncio's loops have it."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], Any]) -> Any:
        """A handle with `cancel()`."""


class Scheduler(Protocol):
    """Brings texts from the queue to one engine until it is cancelled.

    It takes texts when the engine has room for them, and settles each with its part. One that can
    let texts join a batch that is running takes them whenever others halt; `BatchScheduler` takes
    the next batch when the one before has come back.
    """

    async def run(self, engine: Engine) -> None: ...


class BatchScheduler:
    """Whole batches: what waits, in the queue's order, once the engine is free.

    Args:
        on_batch: called with the texts, the seconds they took, and their parts.
    """

    def __init__(
        self,
        queue: FairQueue,
        max_tokens: int,
        max_texts: int,
        clock: Clock,
        on_batch: Callable[[Sequence[Item], float, Sequence[Any]], None],
    ):
        self._queue, self._clock, self._on_batch = queue, clock, on_batch
        self._max_tokens, self._max_texts = max_tokens, max_texts
        self._idle = 0

    async def run(self, engine: Engine) -> None:
        while True:
            await engine.ready()
            self._idle += 1
            try:
                await self._queue.wait()
                # What waits is dealt out among all that are free, so that none stands idle.
                share = math.ceil(self._queue.tokens / self._idle)
                batch = self._queue.take(min(share, self._max_tokens), self._max_texts)
            finally:
                self._idle -= 1
            if batch:
                await self._compute(engine, batch)

    async def _compute(self, engine: Engine, batch: list[Item]) -> None:
        begin = self._clock.time()
        for item in batch:
            if item.job.started is None:
                item.job.started = begin
        try:
            parts = await engine.compute(batch[0].job.task, [item.text for item in batch])
        except EngineDied as death:
            for item in batch:
                item.deaths += death.had_begun
                item.alone = item.alone or death.had_begun
                if item.deaths >= _MOST_DEATHS:
                    reason = "the process that computed it died, and so did the one after it"
                    item.job.settle(item.place, ServiceError(503, "Unhealthy", reason, 1))
                else:
                    self._queue.put_back(item)
            return
        except asyncio.CancelledError:
            raise
        except Exception:
            if len(batch) == 1:
                batch[0].job.settle(batch[0].place, failed())
                return
            # One of them, maybe: each gets its own try.
            for item in batch:
                item.alone = True
                self._queue.put_back(item)
            return
        seconds = self._clock.time() - begin
        self._on_batch(batch, seconds, parts)
        for item, part in zip(batch, parts, strict=True):
            item.job.seconds += seconds
            item.job.settle(item.place, part)


def failed() -> ServiceError:
    return ServiceError(424, "Backend", "the model failed on this text")


class Batcher:
    """A bounded queue with engines behind it.

    Args:
        engines: not started yet.
        clock: default, the running loop.
        on_batch: as in `BatchScheduler`.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        max_batch_tokens: int,
        max_batch_texts: int,
        max_queue_tokens: int,
        clock: Clock | None = None,
        on_batch: Callable[[Sequence[Item], float, Sequence[Any]], None] = lambda *args: None,
    ):
        self.engines = list(engines)
        self.queue = FairQueue()
        self._clock = clock or asyncio.get_running_loop()
        self._max_queue_tokens = max_queue_tokens
        self._observe = on_batch
        self._scheduler: Scheduler = BatchScheduler(
            self.queue, max_batch_tokens, max_batch_texts, self._clock, self._batch_done
        )
        self._tasks: list[asyncio.Task] = []
        self._jobs: set[Job] = set()
        self._speed: float | None = None  # tokens a second of one engine

    @property
    def alive(self) -> bool:
        """Whether any engine can compute."""
        return any(engine.alive for engine in self.engines)

    async def start(self) -> None:
        """Returns once all engines can compute. Raises OSError, ValueError: one never will."""
        try:
            await asyncio.gather(*(engine.start() for engine in self.engines))
        except BaseException:
            await self.stop()
            raise
        self._tasks = [asyncio.create_task(self._scheduler.run(e)) for e in self.engines]

    async def stop(self) -> None:
        """Ends the engines; jobs that are not over yet end with 503."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._jobs:
            job.fail(ServiceError(503, "Unhealthy", "the service has stopped"))
        await asyncio.gather(*(engine.stop() for engine in self.engines))

    async def run(
        self, task: str, texts: Sequence[TokenizedText], deadline: float
    ) -> tuple[list[Any], Job]:
        """The texts' parts, each of which may be a TextError or a ServiceError, and the job.

        A caller that is cancelled takes its texts out of the queue.

        Raises:
            ServiceError: 413, more than the queue may ever hold; 429, more than it has room for;
                504, not computed by `deadline`.
        """
        job = Job(task, texts, self._clock.time())
        tokens = sum(item.tokens for item in job.items)
        if tokens > self._max_queue_tokens:
            reason = f"{tokens} tokens, expected at most {self._max_queue_tokens} in a request"
            raise ServiceError(413, "Validation", reason)
        if self.queue.tokens + tokens > self._max_queue_tokens:
            raise overloaded("too many tokens wait already", self.retry_after())
        self.queue.add(job)
        self._jobs.add(job)

        def expire() -> None:
            job.fail(ServiceError(504, "Timeout", "not computed in the time allowed"))

        timer = self._clock.call_at(deadline, expire)
        try:
            return await job, job
        finally:
            timer.cancel()
            if not job.over:
                job.cancel()
            self.queue.remove(job)
            self._jobs.discard(job)

    def retry_after(self) -> int:
        """Seconds until what waits now should have been computed, 1 to 60."""
        if not self._speed:
            return 1
        speed = self._speed * max(1, sum(engine.alive for engine in self.engines))
        return max(1, min(60, math.ceil(self.queue.tokens / speed)))

    def _batch_done(self, batch: Sequence[Item], seconds: float, parts: Sequence[Any]) -> None:
        speed = sum(item.tokens for item in batch) / max(seconds, 1e-6)
        share = 1.0 if self._speed is None else _NEWEST
        self._speed = share * speed + (1 - share) * (self._speed or 0.0)
        self._observe(batch, seconds, parts)
