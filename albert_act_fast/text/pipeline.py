"""Texts in, results out, in bounded memory: tokenised in threads while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from albert_act_fast.text.errors import TextError
from albert_act_fast.text.tokenize import TokenizedText

# A block is what one thread tokenises at once; several lie ready before the model asks for them.
_BLOCK_TEXTS = 256
_BLOCK_CHARACTERS = 1 << 18
_BLOCKS_AHEAD = 2

Windows = list[TokenizedText]
# Texts first counted from, and the texts.
Tokenize = Callable[[int, Sequence[object]], list[Windows | TextError]]
# One batch of windows; a result for each, or the error of the text it belongs to.
Compute = Callable[[Sequence[TokenizedText]], Sequence[Any]]
# All windows of one text and their results.
Finish = Callable[[Windows, list[Any]], Any]


@dataclass(frozen=True)
class Work:
    """What a task does with texts, in parts that whoever batches them calls.

    compute takes windows of any texts, as many as memory holds; finish makes a text's result of its
    windows and what compute gave for each.
    """

    tokenize: Tokenize
    compute: Compute
    finish: Finish

    def computed(self, batch: Sequence[TokenizedText]) -> list[Any]:
        """`compute`, in halves where memory does not suffice: a result or a TextError for each."""
        return _compute(batch, self.compute)

    def finished(self, windows: Windows, parts: list[Any]) -> Any:
        """A text's result, or the first TextError among its parts."""
        errors = [part for part in parts if isinstance(part, TextError)]
        return errors[0] if errors else self.finish(windows, parts)


@dataclass(frozen=True)
class Settings:
    """window_texts, window_tokens: texts that are held, and sorted by length, at once; at least
    one block; where a window ends depends on the texts alone. batch_tokens, batch_texts: most in
    one batch, but always one window. stops: which failures end the stream, after the results of
    what precedes them, or, with `fail_first`, before the window that holds them is computed.
    on_window: called when all results of a window were taken."""

    batch_tokens: int
    batch_texts: int | None = None
    window_texts: int = 4096
    window_tokens: int = 1 << 16
    tokenizer_threads: int = 1
    ordered: bool = True
    stops: Callable[[TextError], bool] = lambda error: True
    fail_first: bool = False
    on_window: Callable[[], None] | None = None


def run(texts: Iterable[object], work: Work, settings: Settings) -> Iterator[Any]:
    """A result of `work.finish` for each text; in the place of one that failed its TextError,
    unless that stops.

    The texts are read, and the model runs, in the caller's thread; closing the iterator ends the
    threads. What precedes the first text that stops comes first; so does all that was read before
    the texts' own iterator raised.

    Raises:
        TextError: a text failed, and that stops.
    """
    reader = _Reader(texts)
    blocks: deque[Future | _Tokenized] = deque()
    pool: ThreadPoolExecutor | None = None
    try:
        while True:
            window: list[Windows | TextError] = []
            tokens = 0
            while len(window) < settings.window_texts and tokens < settings.window_tokens:
                while len(blocks) < settings.tokenizer_threads + _BLOCKS_AHEAD:
                    first, block = reader.block()
                    if not block:
                        break
                    if pool is None and reader.ended:
                        # All there is: nothing else could be done meanwhile, and for a text or two
                        # a thread takes longer than the work.
                        blocks.append(_Tokenized(work.tokenize(first, block)))
                        break
                    if pool is None:
                        threads = settings.tokenizer_threads
                        pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")
                    blocks.append(pool.submit(work.tokenize, first, block))
                if not blocks:
                    break
                for item in blocks.popleft().result():
                    window.append(item)
                    if not isinstance(item, TextError):
                        tokens += sum(len(w.input_ids) for w in item)
            if not window:
                break
            if settings.fail_first and reader.failure is not None and not blocks:
                break  # it cut this window short
            yield from _window(window, work, settings)
            if settings.on_window is not None:
                settings.on_window()
        if reader.failure is not None:
            raise reader.failure
    finally:
        if pool is not None:
            for block in blocks:
                block.cancel()
            pool.shutdown(wait=True)


@dataclass(frozen=True)
class _Tokenized:
    """A block that no thread was needed for."""

    windows: list[Windows | TextError]

    def result(self) -> list[Windows | TextError]:
        return self.windows


class _Reader:
    """Takes texts by blocks; keeps what the caller's iterator raises until its turn comes."""

    def __init__(self, texts: Iterable[object]):
        self._texts = iter(texts)
        self._count = 0
        self.failure: BaseException | None = None
        self.ended = False

    def block(self) -> tuple[int, list[object]]:
        """Index of the first, and the texts; none at the end."""
        first, block, characters = self._count, [], 0
        while not self.ended and len(block) < _BLOCK_TEXTS and characters < _BLOCK_CHARACTERS:
            try:
                text = next(self._texts)
            except StopIteration:
                self.ended = True
            except Exception as error:
                self.failure, self.ended = error, True
            else:
                block.append(text)
                characters += len(text) if isinstance(text, str) else 0
        self._count += len(block)
        return first, block


def _window(window, work: Work, settings: Settings) -> Iterator[Any]:
    def stops(item) -> bool:
        return isinstance(item, TextError) and settings.stops(item)

    # What follows the first failure is not computed.
    failed = next((i for i, item in enumerate(window) if stops(item)), len(window))
    if failed < len(window) and settings.fail_first:
        raise window[failed]
    window = window[: failed + 1]
    done: dict[int, Any] = {}
    parts: dict[int, list] = {}
    turn = 0
    for place, item in enumerate(window):
        if isinstance(item, TextError):
            done[place] = item
        else:
            parts[place] = [None] * len(item)
    for batch in _batches(window, settings):
        results = work.computed([window[place][part] for place, part in batch])
        for (place, part), result in zip(batch, results, strict=True):
            parts[place][part] = result
            if any(r is None for r in parts[place]):
                continue
            done[place] = work.finished(window[place], parts[place])
            del parts[place]
        if not settings.ordered:
            for place in sorted(done):
                if not stops(done[place]):
                    yield done.pop(place)
        while settings.ordered and turn in done:
            result = done.pop(turn)
            turn += 1
            if stops(result):
                raise result
            yield result
    for place in sorted(done):
        if stops(done[place]):
            raise done[place]
        yield done[place]


def _batches(window, settings: Settings) -> Iterator[list[tuple[int, int]]]:
    """Places and parts, the longest first: what does not fit into memory fails before the rest."""
    units = [
        (place, part)
        for place, item in enumerate(window)
        if not isinstance(item, TextError)
        for part in range(len(item))
    ]
    units.sort(key=lambda unit: -len(window[unit[0]][unit[1]].input_ids))
    batch: list[tuple[int, int]] = []
    tokens = 0
    for place, part in units:
        length = len(window[place][part].input_ids)
        full = settings.batch_texts is not None and len(batch) >= settings.batch_texts
        if batch and (full or tokens + length > settings.batch_tokens):
            yield batch
            batch, tokens = [], 0
        batch.append((place, part))
        tokens += length
    if batch:
        yield batch


def _compute(batch: Sequence[TokenizedText], compute: Compute) -> list[Any]:
    """A result or an error for each; a batch that does not fit into memory goes in halves."""
    try:
        return list(compute(batch))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if len(batch) > 1:
        middle = len(batch) // 2
        return _compute(batch[:middle], compute) + _compute(batch[middle:], compute)
    (text,) = batch
    reason = f"out of memory with this one text of {len(text.input_ids)} tokens"
    return [TextError(text.index, text.text, "memory", reason)]


def is_out_of_memory(error: BaseException) -> bool:
    """On a CPU PyTorch raises a plain RuntimeError where memory cannot be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(
        words in message
        for words in ("can't allocate memory", "not enough memory", "std::bad_alloc", "alloc_cpu")
    )
