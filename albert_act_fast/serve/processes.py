"""Engines that are processes: one that dies is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from albert_act_fast.serve.engine import EngineDied
from albert_act_fast.serve.logs import log

if TYPE_CHECKING:
    from albert_act_fast.serve.shared import SharedEncoder
    from albert_act_fast.text.tokenize import TokenizedText

# Seconds before a replacement, the last one for all further ones that do not start.
_DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Seconds after which a worker that neither answers nor dies is killed; and a worker that was asked
# to end.
_STALLED = 300.0
_ENDING = 10.0


class EngineFailed(Exception):
    """The model raised an error of the type named; the worker lives on."""


class _Worker:
    """One process and the socket to it. Its methods wait; they are called in one thread."""

    def __init__(self, encoder: SharedEncoder, threads: int, cores: Sequence[int]):
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "TOKENIZERS_PARALLELISM": "false",
            }
            inherited = [theirs.fileno()]
            if encoder.descriptor is not None:
                inherited.append(encoder.descriptor)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "albert_act_fast.serve.worker", str(theirs.fileno())],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self._socket = ours
        self._connection = Connection(os.dup(ours.fileno()))
        self._first = encoder.pickled, encoder.path, cores

    def started(self) -> str | None:
        """None once it can compute, or why it never will. Raises EOFError, OSError: it died."""
        self._connection.send(self._first)
        return self._connection.recv()

    def compute(self, task: str, texts: Sequence[TokenizedText]) -> list[Any]:
        self._connection.send((task, texts))
        parts, error = self._connection.recv()
        if error is not None:
            raise EngineFailed(error)
        return parts

    def close(self) -> None:
        """Once no other method waits."""
        self._connection.close()
        self._socket.close()

    def end(self) -> None:
        """Waits until it has ended, and sees to it that it does; from any thread."""
        # Both ends read the end of the stream then, whatever they are at.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ProcessEngine:
    """Computes in a process of its own, and in another one once that has died.

    Args:
        encoder: what the process has; whoever made it closes it.
        threads: that compute.
        cores: the only ones that it may use; none: any.
        on_death: called when a process has died.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        encoder: SharedEncoder,
        threads: int,
        cores: Sequence[int] = (),
        on_death: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ):
        self._encoder, self._threads, self._cores = encoder, threads, tuple(cores)
        self._on_death, self._sleep = on_death, sleep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._ready = asyncio.Event()
        self._worker: _Worker | None = None
        self._replacing: asyncio.Task | None = None
        self._stopping = False

    @property
    def alive(self) -> bool:
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """Of the process that computes now."""
        return self._worker.process.pid if self._worker and self.alive else None

    async def start(self) -> None:
        if (reason := await self._spawn()) is not None:
            await self.stop()
            raise ValueError(f"a worker cannot start: {reason}")

    async def ready(self) -> None:
        await self._ready.wait()

    async def compute(self, task: str, texts: Sequence[TokenizedText]) -> list[Any]:
        worker = self._worker
        if worker is None or not self.alive:
            raise EngineDied(had_begun=False)
        stalled = asyncio.get_running_loop().call_later(_STALLED, worker.process.kill)
        try:
            return await self._run(worker.compute, task, texts)
        except (EOFError, OSError):
            self._died(worker)
            raise EngineDied(had_begun=True) from None
        finally:
            stalled.cancel()

    async def stop(self) -> None:
        self._stopping = True
        self._ready.clear()
        if self._replacing is not None:
            self._replacing.cancel()
        worker, self._worker = self._worker, None
        if worker is not None:
            # Beside the engine's thread, which may be waiting for an answer.
            await asyncio.get_running_loop().run_in_executor(None, worker.end)
            await self._run(worker.close)
        self._thread.shutdown(wait=False)

    async def _spawn(self) -> str | None:
        """None, or why it did not start."""
        try:
            worker = await self._run(_Worker, self._encoder, self._threads, self._cores)
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        self._worker = worker
        try:
            reason = await self._run(worker.started)
        except (EOFError, OSError):
            status = await self._run(worker.process.wait)
            reason = f"it ended with status {status}"
        if reason is not None:
            await self._run(worker.end)
            await self._run(worker.close)
            self._worker = None
            return reason
        loop = asyncio.get_running_loop()

        def watch() -> None:
            worker.process.wait()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._died, worker)

        threading.Thread(target=watch, name="watch-worker", daemon=True).start()
        self._ready.set()
        log("worker started", pid=worker.process.pid, cores=list(self._cores))
        return None

    def _died(self, worker: _Worker) -> None:
        if self._stopping or worker is not self._worker or not self.alive:
            return
        self._ready.clear()
        log("worker died", level="error", pid=worker.process.pid)
        self._on_death()
        self._replacing = asyncio.ensure_future(self._replace(worker))

    async def _replace(self, dead: _Worker) -> None:
        await self._run(dead.end)
        await self._run(dead.close)
        for delay in itertools.chain(_DELAYS, itertools.repeat(_DELAYS[-1])):
            await self._sleep(delay)
            if (reason := await self._spawn()) is None:
                return
            log("worker cannot start", level="error", reason=reason)

    async def _run(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
