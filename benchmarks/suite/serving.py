"""The service under load: capacity beside TextEncoder.stream, latency at shares of capacity, and
the same for other servers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from albert_act_fast import TextEncoder
from albert_act_fast.tokenizer import load_tokenizer
from suite.cases import Case
from suite.inputs import ROOT, sentence_texts
from suite.load import Load, Target, closed_loop, poisson
from suite.models import model_folder, model_of
from suite.timing import MACHINE_CLOCK, Clock

LOADS = (0.3, 0.5, 0.7, 0.9)
CLIENTS = 64
TEXTS = 512
# Of the capacity, of each load, and before either.
CAPACITY_SECONDS, LOAD_SECONDS, WARM_UP_SECONDS = 15.0, 30.0, 3.0
# Of embeddings of norm 1; float32 against the reference loop's float32.
LARGEST_ERROR = 1e-4
STREAM = "TextEncoder.stream"
SERVICE = "serve cpp float32"


@dataclass(frozen=True)
class Server:
    """command: what starts it, without model and port."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ("fastapi", "uvicorn")

    def why_not(self) -> str | None:
        missing = [package for package in self.needs if find_spec(package) is None]
        return f"not installed: {', '.join(missing)}" if missing else None


_SERVE = (sys.executable, "-m", "albert_act_fast", "serve", "--log-level", "warning")
SERVERS = (
    Server(SERVICE, (*_SERVE, "--implementation", "cpp"), ("fastapi", "orjson", "uvicorn")),
    Server("serve reference float32", (*_SERVE, "--implementation", "reference")),
    Server(
        "FastAPI + SentenceTransformer",
        (sys.executable, str(ROOT / "benchmarks/plain_server.py")),
        ("fastapi", "sentence_transformers", "uvicorn"),
    ),
)


def steps() -> int:
    """How often `serve_rows` calls `advance`."""
    return 1 + len(SERVERS) * (1 + len(LOADS))


def serve_rows(
    folder: Path,
    advance: Callable[[], None] = lambda: None,
    *,
    size: str = "base",
    effort: float = 1.0,
    threads: int | None = None,
    servers: tuple[Server, ...] = SERVERS,
    clock: Clock = MACHINE_CLOCK,
) -> Iterator[dict]:
    """Rows of capacity and of each load, one text a request, each as soon as it is known.

    The driver shares the cores with the servers; what it takes is in all figures alike.

    Args:
        effort: multiplies the time of each measurement.
        threads: of each server and of the stream; default, PyTorch's.
    """
    case = Case(size, "sentences", TEXTS)
    model_of(case, folder)
    model = model_folder(case, folder)
    load_tokenizer().save_pretrained(model)
    texts, source = sentence_texts(TEXTS, "mixed")
    about = {
        "kind": "serve",
        "case": f"{size}, one sentence a request",
        "text": source,
        "dtype": "float32",
    }
    encoder = TextEncoder.from_pretrained(model)
    expected = encoder.encode(texts, normalize=True, truncation=True)
    threads = threads or torch.get_num_threads()
    stream = _stream_rate(encoder, texts, effort * CAPACITY_SECONDS, clock)
    yield {**about, "variant": STREAM, "capacity": stream, "of_stream": 1.0}
    advance()
    for server in servers:
        row = {**about, "variant": server.name}
        if (reason := server.why_not()) is not None:
            yield {**row, "skipped": reason}
            continue
        with _running(server, model, threads) as (host, port):
            bodies = [json.dumps({"inputs": [t], "truncate": True}).encode() for t in texts]
            if server.command[-1].endswith("plain_server.py"):
                bodies = [json.dumps({"inputs": [t]}).encode() for t in texts]
            found = asyncio.run(
                _measure(Target(host, port), bodies, expected, effort, advance, clock)
            )
        if isinstance(found, str):
            yield {**row, "wrong": found}
            continue
        capacity, loads = found
        about_capacity = {"capacity": capacity, "of_stream": capacity / stream}
        yield {**row, **about_capacity}
        for share, load in loads:
            yield {
                **row,
                "load": share,
                "rate": share * capacity,
                "throughput": load.throughput,
                "p50": load.percentile(0.5),
                "p99": load.percentile(0.99),
                "requests": load.statuses.total(),
                "failed": load.statuses.total() - load.statuses[200],
            }


async def _measure(
    target: Target, bodies, expected, effort, advance, clock
) -> str | tuple[float, list[tuple[float, Load]]]:
    """Capacity and the loads; or what is wrong."""
    for number in range(0, len(bodies), max(1, len(bodies) // 16)):
        status, answer = await target.post("/embed", bodies[number])
        if status != 200:
            return f"answered {status}: {answer[:200]!r}"
        error = float(np.abs(np.array(json.loads(answer)[0]) - expected[number]).max())
        if not error <= LARGEST_ERROR:
            return f"off by {error:.1e}, at most {LARGEST_ERROR} expected"
    await closed_loop(target, "/embed", bodies, CLIENTS, effort * WARM_UP_SECONDS, clock)
    load = await closed_loop(target, "/embed", bodies, CLIENTS, effort * CAPACITY_SECONDS, clock)
    capacity = load.throughput
    advance()
    loads = []
    for share in LOADS:
        rate, seconds = share * capacity, effort * LOAD_SECONDS
        loads.append((share, await poisson(target, "/embed", bodies, rate, seconds, clock=clock)))
        advance()
    target.close()
    return capacity, loads


def _stream_rate(encoder: TextEncoder, texts: list[str], seconds: float, clock: Clock) -> float:
    """Texts a second."""
    begin, count = clock.now(), 0
    while count < len(texts) or clock.now() - begin < seconds:
        count += sum(1 for _ in encoder.stream(texts, normalize=True, truncation=True))
    return count / (clock.now() - begin)


@contextmanager
def _running(server: Server, model: Path, threads: int) -> Iterator[tuple[str, int]]:
    """A server's address, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    extra = ("--threads", str(threads)) if "serve" in server.command else ()
    process = subprocess.Popen(
        [*server.command, "--model", str(model), "--port", str(port), *extra],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{server.name}: ended with status {process.returncode}.")
            try:
                socket.create_connection((host, port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield host, port
    finally:
        process.terminate()
        process.wait()
