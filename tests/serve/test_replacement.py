"""An engine in a process, with processes that are only said to be."""

from __future__ import annotations

import queue
import threading

import pytest
from support.serving import run, settled, text_of

from albert_act_fast.serve import processes
from albert_act_fast.serve.engine import EngineDied
from albert_act_fast.serve.processes import EngineFailed, ProcessEngine


class Process:
    """Lives until it is killed."""

    pid = 1

    def __init__(self):
        self._over = threading.Event()

    def wait(self, timeout=None):
        self._over.wait()
        return -9

    def kill(self):
        self._over.set()


class Worker:
    """Starts as `starts` says: None, a reason, or an error; answers what is put into `answers`."""

    starts: list = []
    made: list = []

    def __init__(self, encoder, threads, cores):
        self.process, self.answers, self.closed = Process(), queue.Queue(), False
        self.made.append(self)
        self._start = self.starts.pop(0) if self.starts else None
        if isinstance(self._start, MemoryError):
            raise OSError(12, "Cannot allocate memory")

    def started(self):
        if isinstance(self._start, BaseException):
            self.process.kill()
            raise self._start
        return self._start

    def compute(self, task, texts):
        answer = self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def die(self):
        self.process.kill()
        self.answers.put(EOFError())

    def end(self):
        self.process.kill()

    def close(self):
        self.closed = True


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(processes, "_Worker", Worker)
    Worker.starts, Worker.made = [], []
    return Worker


def make(**options):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    return ProcessEngine(None, 1, (), sleep=sleep, **options), waits


def test_a_worker_that_dies_at_work_is_replaced(worker):
    @run
    async def check():
        deaths = []
        engine, waits = make(on_death=lambda: deaths.append(1))
        await engine.start()
        worker.made[0].die()
        with pytest.raises(EngineDied) as caught:
            await engine.compute("embed", [text_of("a")])
        assert caught.value.had_begun
        await engine.ready()
        assert worker.made[0].closed
        worker.made[1].answers.put(["a"])
        assert await engine.compute("embed", [text_of("a")]) == ["a"]
        assert (len(deaths), waits) == (1, [0.0])
        await engine.stop()
        assert not engine.alive

    check()


def test_a_worker_that_dies_idle_is_replaced_too(worker):
    @run
    async def check():
        engine, _ = make()
        await engine.start()
        worker.made[0].process.kill()
        while len(worker.made) < 2 or not engine.alive:
            await settled(1)
        worker.made[1].answers.put(["a"])
        assert await engine.compute("embed", [text_of("a")]) == ["a"]
        await engine.stop()

    check()


def test_what_does_not_start_is_tried_again_ever_later(worker):
    @run
    async def check():
        engine, waits = make()
        await engine.start()
        failures = [EOFError(), "no memory", MemoryError(), EOFError(), *["no"] * 5]
        worker.starts = [*failures, None]
        worker.made[0].die()
        with pytest.raises(EngineDied):
            await engine.compute("embed", [text_of("a")])
        with pytest.raises(EngineDied) as caught:
            await engine.compute("embed", [text_of("a")])
        assert not caught.value.had_begun
        await engine.ready()
        assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
        await engine.stop()

    check()


@pytest.mark.parametrize("start", ["the model is damaged", EOFError()])
def test_the_first_that_does_not_start_is_an_error(worker, start):
    @run
    async def check():
        worker.starts = [start]
        engine, _ = make()
        reason = "damaged" if isinstance(start, str) else "status -9"
        with pytest.raises(ValueError, match=f"a worker cannot start: .*{reason}"):
            await engine.start()

    check()


def test_an_error_of_the_model_is_no_death(worker):
    @run
    async def check():
        engine, waits = make()
        await engine.start()
        worker.made[0].answers.put(EngineFailed("RuntimeError"))
        with pytest.raises(EngineFailed, match="RuntimeError"):
            await engine.compute("embed", [text_of("a")])
        assert (engine.alive, waits) == (True, [])
        await engine.stop()

    check()
