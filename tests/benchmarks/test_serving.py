"""The load driver against a server of a few lines, and what becomes of its figures."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from suite.load import Load, Target, closed_loop, poisson
from suite.plots import serving as picture
from suite.tables import serving as table


def run_with(test, statuses=(200,)):
    """Runs the coroutine with a target whose answers have these statuses in turn (0: the connection
    breaks); gives what the test gives, and the bodies that came."""
    bodies: list[dict] = []

    async def answer(reader, writer):
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            except asyncio.IncompleteReadError:
                break
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            bodies.append(json.loads(await reader.readexactly(length)))
            status = statuses[(len(bodies) - 1) % len(statuses)]
            if status == 0:
                break
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n[]".encode())
        writer.close()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        target = Target(*server.sockets[0].getsockname())
        result = await test(target)
        target.close()
        server.close()
        return result, bodies

    return asyncio.run(main())


BODIES = [json.dumps({"inputs": [str(n)]}).encode() for n in range(5)]


def test_poisson_sends_what_is_due_and_counts_every_answer():
    async def load(target):
        return await poisson(target, "/embed", BODIES, rate=400.0, seconds=0.25, seed=1)

    found, bodies = run_with(load, statuses=(200, 429, 200, 0))
    again, _ = run_with(load)
    # Due moments come from the seed, not from how fast anybody is.
    assert found.statuses.total() == again.statuses.total() == len(bodies) > 50
    assert found.statuses.keys() == {200, 429, 0}
    assert len(found.latencies) == found.statuses[200]
    assert Counter(body["inputs"][0] for body in bodies).keys() == set("01234")
    assert min(found.latencies) > 0


def test_a_closed_loop_asks_until_its_time_is_over():
    times = iter(range(10_000))

    class Clock:
        now = staticmethod(lambda: float(next(times)))

    async def load(target):
        return await closed_loop(target, "/embed", BODIES, 3, 200.0, Clock)

    found, bodies = run_with(load)
    assert found.statuses == {200: len(bodies)}
    assert found.seconds >= 200
    assert found.throughput == pytest.approx(len(bodies) / found.seconds)


def test_percentiles():
    load = Load(latencies=[float(n) for n in range(100)][::-1])
    assert (load.percentile(0.5), load.percentile(0.99), load.percentile(1.0)) == (50, 99, 99)
    assert Load().percentile(0.5) is None


ROWS = [
    {"kind": "serve", "case": "c", "variant": "stream", "capacity": 100.0, "of_stream": 1.0},
    {"kind": "serve", "case": "c", "variant": "serve", "capacity": 95.0, "of_stream": 0.95},
    *(
        {
            "kind": "serve",
            "case": "c",
            "variant": "serve",
            "load": load,
            "rate": 95 * load,
            "throughput": 94 * load,
            "p50": 0.01,
            "p99": 0.03,
            "requests": 100,
            "failed": 1,
        }
        for load in (0.3, 0.9)
    ),
    {"kind": "serve", "case": "c", "variant": "other", "skipped": "not installed"},
]


def test_table_and_picture():
    lines = table(ROWS).splitlines()
    assert "| serve | capacity | 95 | 95% |  |  |  |" in lines
    assert "| serve | 90% | 85 |  | 10 ms | 30 ms | 1 of 100 |" in lines
    assert len(lines) == 2 + 4
    assert len(picture(ROWS).axes[0].lines) == 2
    assert picture(ROWS[:2]) is None


@pytest.mark.slow
def test_the_service_at_toy_size(tmp_path):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from suite.serving import LOADS, SERVERS, serve_rows, steps

    advances = []
    settings = {"size": "tiny", "effort": 0.05, "threads": 1}
    rows = list(serve_rows(tmp_path, lambda: advances.append(1), **settings))
    assert len(advances) == steps()
    assert not [row for row in rows if "wrong" in row or "skipped" in row], rows
    for server in SERVERS:
        own = [row for row in rows if row["variant"] == server.name]
        assert [row.get("load") for row in own] == [None, *LOADS]
        assert all(row["failed"] == 0 for row in own[1:]), own
