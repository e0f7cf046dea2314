"""Queue and batches, with an engine and a clock that the test moves: nothing here takes time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serving import Clock, ManualEngine, run, settled, text_of

from albert_act_fast.serve.engine import EngineDied
from albert_act_fast.serve.errors import ServiceError
from albert_act_fast.serve.fair_queue import FairQueue, Job
from albert_act_fast.serve.scheduler import Batcher


class Batching:
    """A batcher of manual engines."""

    def __init__(self, engines=1, **limits):
        self.clock = Clock()
        self.engines = [ManualEngine() for _ in range(engines)]
        limits = {"max_batch_tokens": 40, "max_batch_texts": 8, "max_queue_tokens": 1000} | limits
        self.batcher = Batcher(self.engines, clock=self.clock, **limits)

    async def __aenter__(self):
        await self.batcher.start()
        await settled()
        return self

    async def __aexit__(self, *args):
        await self.batcher.stop()

    def send(self, *texts, task="embed", tokens=10, deadline=1e9) -> asyncio.Task:
        windows = [text_of(text, tokens) for text in texts]
        return asyncio.create_task(self.batcher.run(task, windows, deadline))


async def refused(task) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await task
    return caught.value


@run
async def test_an_idle_engine_begins_at_once_and_what_comes_meanwhile_goes_together():
    async with Batching() as b:
        (engine,) = b.engines
        tasks = [b.send("a")]
        assert await engine.batch(0) == ["a"]
        tasks += [b.send(name) for name in "bcde"]
        await settled()
        engine.finish(2)
        assert await engine.batch(1) == ["b", "c", "d", "e"]
        assert [(await task)[0] for task in tasks] == [["a"], ["b"], ["c"], ["d"], ["e"]]


@run
async def test_limits_of_a_batch():
    async with Batching(max_batch_texts=3) as b:
        (engine,) = b.engines
        tasks = [b.send("first"), b.send("l", tokens=90), b.send(*"abcdef")]
        engine.finish(9)
        await asyncio.gather(*tasks)
        batches = engine.batches[1:]
        # No text waits for room that never comes; else no more than 40 tokens and 3 texts.
        assert ["l"] in batches
        assert max(map(len, batches)) == 3


@run
async def test_tasks_do_not_share_a_batch():
    async with Batching() as b:
        (engine,) = b.engines
        tasks = [b.send("first")]
        await engine.batch(0)
        tasks += [b.send("e"), b.send("p", task="predict"), b.send("f")]
        await settled()
        engine.finish(4)
        await asyncio.gather(*tasks)
        assert engine.batches == [["first"], ["e", "f"], ["p"]]


@run
async def test_a_long_request_lets_short_ones_pass():
    async with Batching() as b:
        (engine,) = b.engines
        long = b.send(*(f"l{i}" for i in range(12)))
        await engine.batch(0)
        short = b.send("s")
        await settled()
        engine.finish()
        assert "s" in await engine.batch(1)
        engine.finish(9)
        await asyncio.gather(long, short)


@run
async def test_short_requests_do_not_starve_a_long_one():
    async with Batching(max_batch_texts=1) as b:
        (engine,) = b.engines
        tasks = [b.send("first")]
        await engine.batch(0)
        tasks.append(b.send("long", tokens=100))
        passed = 0
        while "long" not in (await engine.batch(passed)):
            tasks.append(b.send(f"s{passed}"))
            await settled()
            engine.finish()
            passed += 1
            assert passed < 20
        engine.finish(99)
        await asyncio.gather(*tasks)


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=1, max_size=8))
def test_every_text_leaves_once_and_a_job_in_its_own_order(lengths):
    async def check():
        queue, left = FairQueue(), []
        for number, tokens in enumerate(lengths):
            texts = [text_of(f"{number}.{i}", n) for i, n in enumerate(tokens)]
            queue.add(Job("embed", texts, 0.0))
        assert queue.tokens == sum(map(sum, lengths))
        while batch := queue.take(64, 4):
            assert len(batch) == 1 or sum(item.tokens for item in batch) <= 64
            left += [item.text.text for item in batch]
        assert (queue.tokens, len(queue)) == (0, 0)
        expected = [f"{n}.{i}" for n, tokens in enumerate(lengths) for i in range(len(tokens))]
        assert sorted(left) == sorted(expected)
        for number in range(len(lengths)):
            own = [name for name in left if name.startswith(f"{number}.")]
            assert own == sorted(own)

    asyncio.run(check())


@run
async def test_a_full_queue_refuses_and_says_when_to_come_again():
    async with Batching(max_queue_tokens=30) as b:
        (engine,) = b.engines
        tasks = [b.send("first", tokens=20)]
        await engine.batch(0)
        b.clock.advance(10)
        tasks.append(b.send("a"))
        await settled()
        engine.finish()  # 20 tokens in 10 seconds
        await engine.batch(1)
        tasks.append(b.send("x", "y", "z"))
        await settled()
        error = await refused(b.send("full"))
        assert (error.status, error.kind, error.retry_after) == (429, "Overloaded", 15)
        assert (await refused(b.send("never", tokens=31))).status == 413
        engine.finish(9)
        await asyncio.gather(*tasks)
        assert b.batcher.queue.tokens == 0


@run
async def test_a_request_that_is_cancelled_is_not_computed():
    async with Batching() as b:
        (engine,) = b.engines
        first = b.send("first")
        await engine.batch(0)
        gone, stays = b.send("gone", "too"), b.send("stays")
        await settled()
        gone.cancel()
        await settled()
        assert b.batcher.queue.tokens == 10
        engine.finish(2)
        await asyncio.gather(first, stays)
        assert engine.batches == [["first"], ["stays"]]


@run
async def test_a_queue_that_is_never_served_does_not_grow_by_what_was_cancelled():
    async with Batching() as b:
        await asyncio.gather(*[settled() for _ in range(2)])
        first = b.send("first")
        await b.engines[0].batch(0)
        for _ in range(500):
            task = b.send("gone")
            await settled(3)
            task.cancel()
            await settled(3)
        (heap,) = b.batcher.queue._heaps.values()
        assert len(heap) <= 64 + 2
        b.engines[0].finish()
        await first


@run
async def test_a_deadline_ends_what_waits_and_what_is_computed():
    async with Batching() as b:
        (engine,) = b.engines
        first = b.send("first", deadline=5.0)
        await engine.batch(0)
        waits = b.send("waits", deadline=3.0)
        await settled()
        b.clock.advance(3)
        assert (await refused(waits)).status == 504
        assert not first.done()
        b.clock.advance(2)
        assert (await refused(first)).status == 504
        assert b.batcher.queue.tokens == 0
        engine.finish()
        await settled()
        assert engine.batches == [["first"]]


@run
async def test_texts_of_an_engine_that_died_are_computed_again_each_alone():
    async with Batching() as b:
        (engine,) = b.engines
        first = b.send("first")
        await engine.batch(0)
        job = b.send("a", "b", "c")
        await settled()
        engine.finish()
        assert await engine.batch(1) == ["a", "b", "c"]
        engine.fail()
        engine.finish(3)
        assert (await job)[0] == ["a", "b", "c"]
        assert engine.batches[2:] == [["a"], ["b"], ["c"]]
        await first


@run
async def test_a_text_that_kills_two_engines_fails_alone():
    async with Batching() as b:
        (engine,) = b.engines
        first = b.send("first")
        await engine.batch(0)
        job = b.send("deadly", "good")
        await settled()
        engine.finish()
        await engine.batch(1)
        engine.fail()
        engine.fail()
        engine.finish()
        (deadly, good), _ = await job
        assert (deadly.status, good) == (503, "good")
        await first


@run
async def test_an_engine_that_was_dead_before_costs_no_try():
    async with Batching() as b:
        (engine,) = b.engines
        job = b.send("a")
        for _ in range(5):
            engine.fail(EngineDied(had_begun=False))
        engine.finish()
        assert (await job)[0] == ["a"]


@run
async def test_an_error_of_the_model_fails_only_the_text_that_causes_it():
    async with Batching() as b:
        (engine,) = b.engines
        first = b.send("first")
        await engine.batch(0)
        job = b.send("bad", "good")
        await settled()
        engine.finish()
        engine.fail(RuntimeError("secret"))
        engine.fail(RuntimeError("secret"))
        engine.finish()
        (bad, good), _ = await job
        assert (bad.status, bad.kind, good) == (424, "Backend", "good")
        assert "secret" not in bad.reason
        await first


@run
async def test_idle_engines_share_what_waits():
    async with Batching(engines=2, max_batch_tokens=1000) as b:
        job = b.send(*"abcdefgh")
        one, two = [await engine.batch(0) for engine in b.engines]
        assert (len(one), len(two)) == (4, 4)
        for engine in b.engines:
            engine.finish()
        assert (await job)[0] == list("abcdefgh")


@run
async def test_stopping_leaves_nobody_waiting():
    b = Batching()
    async with b:
        jobs = [b.send("first"), b.send("waits")]
        await settled()
    for job in jobs:
        assert (await refused(job)).status == 503


@run
async def test_no_text_is_an_empty_answer():
    async with Batching() as b:
        assert (await b.send())[0] == []
