"""Texts that wait for an engine, in a fair order."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from albert_act_fast.serve.errors import ServiceError

if TYPE_CHECKING:
    from albert_act_fast.text.tokenize import TokenizedText


class Job:
    """The texts of one request, on their way through the queue.

    Attributes:
        parts: what the engine gave for each text, or the TextError or ServiceError in its place.
        queued, started: when it came, and when the first of its texts went to an engine.
    """

    def __init__(self, task: str, texts: Sequence[TokenizedText], now: float):
        self.task = task
        self.parts: list[Any] = [None] * len(texts)
        self.items = [Item(self, place, text) for place, text in enumerate(texts)]
        self.queued, self.started = now, None
        self.seconds = 0.0
        self._left = len(texts)
        self._future = asyncio.get_running_loop().create_future()
        if not texts:
            self._future.set_result(self.parts)

    @property
    def over(self) -> bool:
        return self._future.done()

    def settle(self, place: int, part: Any) -> None:
        """One text's part; of a job that is over it is dropped."""
        if self.over:
            return
        self.parts[place] = part
        self._left -= 1
        if not self._left:
            self._future.set_result(self.parts)

    def fail(self, error: ServiceError) -> None:
        """Ends the whole job."""
        if not self.over:
            self._future.set_exception(error)
            # Whoever waited may have gone; asyncio would log the error then.
            self._future.exception()

    def cancel(self) -> None:
        self._future.cancel()

    def __await__(self):
        return asyncio.shield(self._future).__await__()


@dataclass(eq=False)
class Item:
    """One text of a job. tag: its turn; deaths: of workers that had it; alone: to be computed with
    no other, since something went wrong with a batch that it was in."""

    job: Job
    place: int
    text: TokenizedText
    tag: float = 0.0
    deaths: int = 0
    alone: bool = False
    waits: bool = False

    @property
    def tokens(self) -> int:
        return len(self.text.input_ids)


class FairQueue:
    """Self-clocked fair queueing: every job is a flow of its own.

    A text's tag is the queue's clock when its job came plus the tokens of its job up to and with
    it; texts leave by their tags, and the clock follows the tags that have left. So a job of one
    short text passes the later texts of a long job, and no job can be passed for ever.
    """

    def __init__(self):
        self.tokens = 0
        self._heaps: dict[str, list[tuple[float, int, Item]]] = {}
        self._count = 0  # of those that wait, not of what the heaps hold
        self._clock = 0.0
        self._numbers = itertools.count()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return self._count

    async def wait(self) -> None:
        """Returns once something waits."""
        while not self._count:
            self._filled.clear()
            await self._filled.wait()

    def add(self, job: Job) -> None:
        tag = self._clock
        for item in job.items:
            tag += item.tokens
            item.tag = tag
            self._push(item)

    def put_back(self, item: Item) -> None:
        """What had left, with the turn it had."""
        if not item.job.over:
            self._push(item)

    def remove(self, job: Job) -> None:
        """A job that is over waits no longer."""
        for item in job.items:
            if item.waits:
                self._leave(item)
        self._clear_out(job.task)

    def take(self, max_tokens: int, max_texts: int) -> list[Item]:
        """The next texts of one task, at least one if any waits."""
        heads = []
        for heap in self._heaps.values():
            while heap and not heap[0][2].waits:
                heapq.heappop(heap)
            if heap:
                heads.append(heap)
        if not heads:
            return []
        heap = min(heads, key=lambda heap: heap[0])
        batch: list[Item] = []
        tokens = 0
        while heap and len(batch) < max_texts:
            item = heap[0][2]
            if item.waits:
                if batch and (tokens + item.tokens > max_tokens or item.alone or batch[0].alone):
                    break
                batch.append(item)
                tokens += item.tokens
                self._leave(item)
                self._clock = max(self._clock, item.tag)
            heapq.heappop(heap)
        return batch

    def _push(self, item: Item) -> None:
        item.waits = True
        self._count += 1
        self.tokens += item.tokens
        heap = self._heaps.setdefault(item.job.task, [])
        heapq.heappush(heap, (item.tag, next(self._numbers), item))
        self._filled.set()

    def _leave(self, item: Item) -> None:
        item.waits = False
        self._count -= 1
        self.tokens -= item.tokens

    def _clear_out(self, task: str) -> None:
        """Texts that left otherwise than by their turn do not stay in memory until it comes."""
        heap = self._heaps.get(task, [])
        if len(heap) > 2 * self._count + 64:
            heap[:] = [entry for entry in heap if entry[2].waits]
            heapq.heapify(heap)
