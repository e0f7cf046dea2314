"""Loads a service over the loopback: as many requests as it can answer, or Poisson arrivals."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from suite.timing import MACHINE_CLOCK, Clock

# Requests under way at once; one that would be beyond is counted, not sent.
MOST_UNDER_WAY = 4096
# Seconds after which a connection is not used again: servers close what is idle for 5.
MOST_IDLE = 2.0


@dataclass
class Load:
    """What became of the requests of one load.

    latencies: seconds from the moment a request was due, whenever it was sent, to its whole
    answer; of those answered with 200. statuses: how many were answered how; 0: not sent, or the
    connection broke. seconds: from the first to the last.
    """

    latencies: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def throughput(self) -> float:
        """Answers of 200 a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float | None:
        """The latency that this share of the answers did not exceed."""
        ordered = sorted(self.latencies)
        if not ordered:
            return None
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Target:
    """An address, and connections to it that are used again and again."""

    def __init__(self, host: str, port: int):
        self._address = host, port
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises OSError, IncompleteReadError: no whole answer."""
        reader, writer = self._newest() or await asyncio.open_connection(
            *self._address, limit=1 << 20
        )
        try:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: loopback\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            answer = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        self._idle.append((time.monotonic(), reader, writer))
        return int(lines[0].split(" ")[1]), answer

    def close(self) -> None:
        """Closes what is idle."""
        for _, _, writer in self._idle:
            writer.close()
        self._idle = []

    def _newest(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        if not self._idle:
            return None
        since, reader, writer = self._idle.pop()
        if time.monotonic() - since < MOST_IDLE:
            return reader, writer
        writer.close()
        self.close()  # the others are older
        return None


async def closed_loop(
    target: Target,
    path: str,
    bodies: Sequence[bytes],
    clients: int,
    seconds: float,
    clock: Clock = MACHINE_CLOCK,
) -> Load:
    """Clients that each send the next request when their last one is answered: what a service can
    do at most."""
    load, begin = Load(), clock.now()
    numbers = iter(range(1 << 60))

    async def client() -> None:
        while clock.now() - begin < seconds:
            await _ask(target, path, bodies[next(numbers) % len(bodies)], clock.now(), load, clock)

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = clock.now() - begin
    return load


async def poisson(
    target: Target,
    path: str,
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    seed: int = 0,
    clock: Clock = MACHINE_CLOCK,
) -> Load:
    """Requests at random moments, `rate` a second on average, answered or not those before."""
    chooser, load = random.Random(seed), Load()
    tasks: set[asyncio.Task] = set()
    begin = due = clock.now()
    number = 0
    while True:
        due += chooser.expovariate(rate)
        if due - begin > seconds:
            break
        if (wait := due - clock.now()) > 0:
            await asyncio.sleep(wait)
        if len(tasks) >= MOST_UNDER_WAY:
            load.statuses[0] += 1
            continue
        body = bodies[number % len(bodies)]
        task = asyncio.create_task(_ask(target, path, body, due, load, clock))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    load.seconds = clock.now() - begin
    return load


async def _ask(target: Target, path: str, body: bytes, due: float, load: Load, clock: Clock):
    try:
        status, _ = await target.post(path, body)
    except (OSError, asyncio.IncompleteReadError):
        status = 0
    load.statuses[status] += 1
    if status == 200:
        load.latencies.append(clock.now() - due)
