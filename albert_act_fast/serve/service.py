"""From the texts of a request to their results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from albert_act_fast.serve import errors
from albert_act_fast.serve.engine import Engine, LocalEngine, computed_as, works_of
from albert_act_fast.serve.errors import ServiceError
from albert_act_fast.serve.metrics import Metrics
from albert_act_fast.serve.processes import ProcessEngine
from albert_act_fast.serve.scheduler import Batcher, Clock
from albert_act_fast.serve.settings import ServeSettings, shares
from albert_act_fast.serve.shared import SharedEncoder
from albert_act_fast.text import TextError
from albert_act_fast.text.tokenize import TokenizedText, TokenizeOptions

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder

_TOKENIZERS = 2
# Tokenised on the event loop: a thread would take longer than the work.
_FEW_CHARACTERS = 1000


@dataclass
class RequestRecord:
    """What a log line says of a request. deadline: by the loop's clock."""

    id: str
    deadline: float = float("inf")
    texts: int = 0
    tokens: int = 0
    rows: int = 0
    queue_seconds: float | None = None
    error: str | None = None
    fields: dict = field(default_factory=dict)


class Service:
    """A model with a queue and engines; made and used on a running event loop.

    Args:
        encoder: tokenises, and computes where there are no workers.
        name: of the model, for clients.
        threads: of each worker; default, its share of the cores.
        engines: in place of those that the settings ask for.
        clock: default, the running loop.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        settings: ServeSettings,
        name: str,
        threads: int | None = None,
        engines: Sequence[Engine] | None = None,
        clock: Clock | None = None,
    ):
        self.encoder, self.settings = encoder, settings
        self.clock = clock or asyncio.get_running_loop()
        self.metrics = Metrics(encoder.config.num_hidden_layers)
        self.works = works_of(encoder)
        self.name = name
        self._shared: SharedEncoder | None = None
        if engines is None:
            engines = self._engines(threads)
        self.batcher = Batcher(
            engines,
            max_batch_tokens=settings.max_batch_tokens,
            max_batch_texts=settings.max_batch_texts,
            max_queue_tokens=settings.max_queue_tokens,
            clock=self.clock,
            on_batch=self._batch_done,
        )
        self._threads = ThreadPoolExecutor(_TOKENIZERS, thread_name_prefix="tokenize")
        queue, metrics = self.batcher.queue, self.metrics
        metrics.queue_size.set_function(lambda: len(queue))
        metrics.queue_tokens.set_function(lambda: queue.tokens)
        metrics.workers.set_function(lambda: sum(e.alive for e in self.batcher.engines))

    @property
    def alive(self) -> bool:
        return self.batcher.alive

    async def start(self) -> None:
        """Returns once it can answer. Raises OSError, ValueError: it never will."""
        await self.batcher.start()

    async def stop(self) -> None:
        """Ends threads and processes."""
        await self.batcher.stop()
        self._threads.shutdown(wait=False)
        if self._shared is not None:
            self._shared.close()

    async def results(
        self,
        task: str,
        texts: Sequence[str],
        record: RequestRecord,
        *,
        truncate: bool | None,
        field: str = "inputs",
        collect: bool = False,
    ) -> list[Any]:
        """What the task's `finish` makes of each text.

        Args:
            task: a key of `works`.
            field: of the request, named in errors.
            collect: a text that fails has a ServiceError in its place; else it fails the request.

        Raises:
            ServiceError: why there are no results.
        """
        record.texts = len(texts)
        if task not in self.works:
            model = type(self.encoder._frozen.model).__name__
            reason = f"the model of this service, {model}, cannot do that"
            raise ServiceError(424, "Backend", reason)
        if len(texts) > self.settings.max_client_batch_size:
            reason = (
                f"{field}: got {len(texts)} texts, expected at most "
                f"{self.settings.max_client_batch_size} in a request"
            )
            raise ServiceError(413, "Validation", reason)
        truncate = self.settings.truncate if truncate is None else truncate
        begin = time.perf_counter()
        windows = await self.tokenize(texts, TokenizeOptions(task == "depth", truncate))
        self.metrics.tokenization.observe(time.perf_counter() - begin)
        found = [
            self._checked(w, field, collect) if isinstance(w, TextError) else w for w in windows
        ]
        good = [w[0] for w in found if isinstance(w, list)]
        record.tokens = sum(len(text.input_ids) for text in good)
        parts, job = await self.batcher.run(computed_as(task), good, record.deadline)
        if job.started is not None:
            record.queue_seconds = job.started - job.queued
            self.metrics.queued.observe(record.queue_seconds)
        parts_left = iter(parts)
        results = []
        for one in found:
            if isinstance(one, list):
                one = self._finished(task, one, next(parts_left), record)
            if isinstance(one, TextError | ServiceError):
                one = self._checked(one, field, collect)
            results.append(one)
        return results

    async def tokenize(
        self, texts: Sequence[str], options: TokenizeOptions
    ) -> list[list[TokenizedText] | TextError]:
        """Windows of each text, or why there are none."""
        tokenizer = self.encoder._tokenizer
        if sum(map(len, texts)) <= _FEW_CHARACTERS:
            return tokenizer(0, texts, options)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, tokenizer, 0, texts, options)

    def _finished(self, task: str, windows, part, record: RequestRecord):
        if isinstance(part, TextError | ServiceError):
            return part
        result = self.works[task].finished(windows, [part])
        record.rows += result.cost.rows
        self.metrics.text_done(result.cost.tokens_by_iterations)
        return result

    def _checked(self, error, field: str, collect: bool) -> ServiceError:
        if isinstance(error, TextError):
            error = errors.of_text(error, field)
        if not collect:
            raise error
        self.metrics.text_failures.labels(error.kind).inc()
        return error

    def _batch_done(self, batch, seconds: float, parts) -> None:
        tokens = sum(item.tokens for item in batch)
        self.metrics.inference.observe(seconds)
        self.metrics.batch_size.observe(len(batch))
        self.metrics.batch_tokens.observe(tokens)
        self.metrics.batch_fill.observe(min(1.0, tokens / self.settings.max_batch_tokens))

    def _engines(self, threads: int | None) -> list[Engine]:
        if not self.settings.workers:
            return [LocalEngine(self.encoder, self.works)]
        self._shared = SharedEncoder(self.encoder)
        return [
            ProcessEngine(self._shared, threads, cores, self.metrics.deaths.inc)
            for threads, cores in shares(self.settings.workers, threads)
        ]
