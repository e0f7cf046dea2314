"""A stream of texts on a machine that others keep busy, by one thread and by two: how long it
takes, and how much of the processors' time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

from albert_act_fast import TextEncoder, native
from suite.inputs import corpus_texts
from suite.processes import answer_of
from suite.timing import quartiles

TEXTS, ROUNDS = 2000, 5
QUIET, BUSY = "nobody else", "as many busy loops as processors"
# Of each way: threads, and ALBERT_ACT_FAST_GIVE_WAY.
ONE, TWO, SHARING = "1 thread", "2 threads", "2 threads, GIVE_WAY=0"
WAYS = {ONE: (1, "1"), TWO: (2, "1"), SHARING: (2, "0")}


def steps(rounds: int) -> int:
    """How often `crowd_rows` calls `advance`."""
    return 2 * rounds * len(WAYS)


def crowd_rows(
    advance: Callable[[], None] = lambda: None, *, texts: int = TEXTS, rounds: int = ROUNDS
) -> Iterator[dict]:
    """A row for each way on a quiet machine and on a busy one, each call in a process of its own:
    the medians over the rounds, and of the rounds' ratios to one thread."""
    if native.why_no_cpp is not None:
        return
    chooser = random.Random(0)
    for case in (QUIET, BUSY):
        calls: dict[str, list[dict]] = {way: [] for way in WAYS}
        with _busy_loops(os.cpu_count() if case == BUSY else 0):
            for _ in range(rounds):
                for way in chooser.sample(list(WAYS), len(WAYS)):
                    calls[way].append(_call(texts, *WAYS[way]))
                    advance()
        same = len({call["rows"] for found in calls.values() for call in found}) == 1
        for way, found in calls.items():
            row = {"kind": "crowd", "case": case, "variant": way, "sentences": texts}
            row["dtype"] = "float32"
            if not same:
                yield {**row, "wrong": "the embeddings of these ways differ"}
                continue
            for figure in ("seconds", "user_seconds"):
                ratios = [
                    call[figure] / one[figure] for call, one in zip(found, calls[ONE], strict=True)
                ]
                row[figure] = quartiles([call[figure] for call in found])[1]
                row[f"{figure}_of_one"] = quartiles(ratios)[1]
            yield row


@contextlib.contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _call(texts: int, threads: int, give_way: str) -> dict:
    return answer_of(
        f"a call of {threads} threads",
        *("crowd-call", str(texts), "--threads", str(threads)),
        env={"ALBERT_ACT_FAST_GIVE_WAY": give_way},
    )


def measure_call_here(texts: int) -> dict:
    """Seconds of the stream, the process's in user mode meanwhile, and what tells its results from
    others."""
    encoder = TextEncoder.from_pretrained("sst2")
    some, _ = corpus_texts(texts)
    encoder.encode(some[:8])
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    rows = torch.stack(
        [torch.as_tensor(found.embedding) for found in encoder.stream(some, truncation=True)]
    )
    seconds = time.perf_counter() - start
    user = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before.ru_utime
    digest = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
    return {"seconds": seconds, "user_seconds": user, "rows": digest}
