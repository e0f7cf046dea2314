"""A service without sockets, and one whose engine and clock the test moves."""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import threading
from contextlib import asynccontextmanager, contextmanager

import httpx
import uvicorn

from albert_act_fast.serve import ServeSettings, create_app
from albert_act_fast.serve.engine import EngineDied
from albert_act_fast.serve.server import Server
from albert_act_fast.serve.service import Service
from albert_act_fast.text.tokenize import TokenizedText

# A busy machine is no reason to refuse: tests of time limits set them, or move the clock.
UNHURRIED = {"timeout": 86400.0, "transfer_timeout": 86400.0}


def run(test):
    """For tests that are coroutines."""

    @functools.wraps(test)
    def wrapper(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return wrapper


@asynccontextmanager
async def running(encoder, **settings):
    """A client of a service in this process, without sockets; `client.app` is the application."""
    kwargs = {key: settings.pop(key) for key in ("engines", "clock") if key in settings}

    def make(*args):
        return Service(*args, **kwargs)

    settings = ServeSettings(**{"workers": 0, **UNHURRIED, **settings})
    app = create_app(encoder, settings, make_service=make)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            client.app, client.service = app, app.state.service
            yield client


class Clock:
    """Time that stands until the test moves it."""

    def __init__(self):
        self._now, self._timers, self._numbers = 0.0, [], itertools.count()

    def time(self) -> float:
        return self._now

    def call_at(self, when, callback):
        timer = _Timer(callback)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def advance(self, seconds: float) -> None:
        self._now += seconds
        while self._timers and self._timers[0][0] <= self._now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.callback()


class _Timer:
    def __init__(self, callback):
        self.callback, self.cancelled = callback, False

    def cancel(self):
        self.cancelled = True


class ManualEngine:
    """Computes when the test says so. Parts are the texts themselves, or what `answer` gives."""

    def __init__(self, answer=None):
        self.alive = False
        self.batches: list[list[str]] = []
        self._given: asyncio.Queue = asyncio.Queue()
        self._came = asyncio.Event()
        self._answer = answer

    async def start(self):
        self.alive = True

    async def ready(self):
        while not self.alive:
            await asyncio.sleep(0)

    async def stop(self):
        self.alive = False

    async def compute(self, task, texts):
        self.batches.append([text.text for text in texts])
        self._came.set()
        what = await self._given.get()
        if isinstance(what, BaseException):
            raise what
        return [text.text for text in texts] if self._answer is None else self._answer(task, texts)

    async def batch(self, number: int) -> list[str]:
        """The batch of that number, once it has come."""
        while len(self.batches) <= number:
            self._came.clear()
            await self._came.wait()
        return self.batches[number]

    def finish(self, times: int = 1) -> None:
        """The next batches come back."""
        for _ in range(times):
            self._given.put_nowait(None)

    def fail(self, error: BaseException | None = None) -> None:
        """The next batch ends with the error; default, the engine dies over it."""
        self._given.put_nowait(error or EngineDied(had_begun=True))


def text_of(text: str, tokens: int = 10) -> TokenizedText:
    """A text with so many ids."""
    return TokenizedText(0, text, [5] * tokens, [0] * tokens, None, tokens)


async def settled(turns: int = 20) -> None:
    """Lets everything happen that waits for nothing from outside."""
    for _ in range(turns):
        await asyncio.sleep(0)


@contextmanager
def listening(encoder, **settings):
    """The address of a service in a thread of this process, over the loopback."""
    config = uvicorn.Config(
        create_app(encoder, ServeSettings(**{"workers": 0, **UNHURRIED, **settings})),
        port=0,
        http="h11",
        log_config=None,
        access_log=False,
        backlog=4096,
    )
    server, started = Server(config), threading.Event()
    server.on_start = started.set
    thread = threading.Thread(target=server.run)
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
