"""`TextEncoder.stream`: bounded memory, texts' own failures, threads that end; after a fork."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest

from albert_act_fast import TextError
from albert_act_fast.text import pipeline


def tokenizing() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("tokenize")]


class Endless:
    """Texts without end; counts those that were taken."""

    def __init__(self):
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.taken += 1
        return f"number {self.taken} so"


def most_ahead(threads: int, window: int) -> int:
    """Texts that may be held: a window, to the next block, and the blocks ahead of it."""
    blocks = threads + pipeline._BLOCKS_AHEAD
    return window + (1 + blocks) * pipeline._BLOCK_TEXTS


@pytest.mark.parametrize("threads", [1, 3])
def test_texts_without_end_in_bounded_memory(encoder, threads):
    texts = Endless()
    stream = encoder.stream(texts, window=300, tokenizer_threads=threads)
    assert texts.taken == 0
    for count, one in enumerate(itertools.islice(stream, 700)):
        assert one.index == count
        assert texts.taken <= count + 1 + most_ahead(threads, 300)
    stream.close()
    assert not tokenizing()


def test_a_consumer_that_stops_leaves_no_thread(encoder):
    stream = encoder.stream(Endless(), window=8)
    next(stream)
    assert tokenizing()
    del stream
    gc.collect()
    assert not tokenizing()


def test_a_consumer_that_raises_leaves_no_thread(encoder):
    def consume():
        for one in encoder.stream(Endless(), window=8):
            raise KeyError(one.index)

    with pytest.raises(KeyError):
        consume()
    gc.collect()
    assert not tokenizing()


@pytest.mark.parametrize("ordered", [True, False])
def test_a_producer_that_raises_comes_after_what_it_gave(encoder, ordered):
    def texts():
        yield "so"
        yield "quiet ."
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(encoder.stream(texts(), ordered=ordered))
    assert sorted(one.index for one in found) == [0, 1]
    assert not tokenizing()


def test_an_interrupt_of_the_producer_comes_at_once(encoder):
    def texts():
        yield "so"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(encoder.stream(texts()))
    assert not tokenizing()


def test_a_defect_of_the_tokenizer_is_raised(encoder, monkeypatch):
    def broken(texts, with_offsets):
        raise RuntimeError("a defect")

    monkeypatch.setattr(encoder._tokenizer, "_split", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        encoder.encode(["so"], errors="collect")
    assert not tokenizing()


def test_many_good_ones_among_bad_ones(encoder):
    texts = [("" if i % 7 == 0 else f"so {i}") for i in range(1000)]
    found = list(encoder.stream(texts, errors="collect", window=50))
    assert [one.index for one in found] == list(range(1000))
    assert [isinstance(one, TextError) for one in found] == [not text for text in texts]


def test_batches_are_of_like_length_and_within_the_budget(encoder, monkeypatch):
    from albert_act_fast.text import encoder as module

    compute, batches = module.encode_packed, []

    def recording(model, batch, **kwargs):
        batches.append(batch.lengths)
        return compute(model, batch, **kwargs)

    monkeypatch.setattr(module, "encode_packed", recording)
    texts = ["so " * (1 + i * 7 % 30) for i in range(100)]
    list(encoder.stream(texts, batch_tokens=64, batch_size=5))
    lengths = [n for batch in batches for n in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert all(sum(batch) <= 64 and len(batch) <= 5 for batch in batches)
    assert max(len(batch) for batch in batches) == 5
    # None is smaller than it has to be.
    for batch, following in itertools.pairwise(batches):
        assert len(batch) == 5 or sum(batch) + following[0] > 64


def test_from_several_threads_at_once(encoder):
    texts = [f"so it was {i}" for i in range(40)]
    expected = encoder.encode(texts)
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: encoder.encode(texts)}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for rows in found.values():
        np.testing.assert_array_equal(rows, expected)


_FORK = """
import multiprocessing, sys, warnings
import torch
torch.set_num_threads(2)
from albert_act_fast import TextEncoder
encoder = TextEncoder.from_pretrained("sentence")
texts = ["so it was the best of times " * 5] * 16
expected = encoder.encode(texts)

def child(results):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = encoder.encode(texts)
        encoder.encode(texts)
    results.put((abs(found - expected).max(), torch.get_num_threads(),
                 [str(w.message) for w in caught if "forked" in str(w.message)]))

context = multiprocessing.get_context("fork")
results = context.Queue()
process = context.Process(target=child, args=(results,))
process.start()
difference, threads, said = results.get()
process.join()
assert difference < 1e-4, difference
assert threads == 1
assert len(said) == 1 and "spawn" in said[0], said
assert torch.get_num_threads() == 2
encoder.encode(texts)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_after_a_fork_one_thread_computes():
    """Plain PyTorch hangs there: with its threads used before, more than one never return."""
    environment = {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    import os

    result = subprocess.run(
        [sys.executable, "-c", _FORK],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
