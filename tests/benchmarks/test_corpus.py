"""The corpus at toy size: who takes which texts, who is wrong, and what becomes of the figures."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from albert_act_fast import native
from albert_act_fast.tokenizer import load_tokenizer
from suite import corpus, crowd, one_sentence, parts
from suite.measured_rows import FIELDS
from suite.plots import corpus as picture
from suite.tables import corpus as table
from suite.tables import corpus_memory as memory_table
from suite.tables import crowd as crowd_table
from suite.tables import sentence as sentence_table

TEXTS = [f"{'so ' * (n % 7)}it was {n}" for n in range(100)]
BY_LENGTH = sorted(TEXTS, key=len)


def way(**settings) -> corpus.Way:
    return corpus.Way("some float32", lambda folder, files: None, **settings)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(
    ("batch", "by_length"), [(None, False), (8, False), (8, True), (64, False), (64, True)]
)
def test_the_parts_hold_every_text_once(parts, batch, by_length):
    cut = corpus._cut(way(batch=batch, by_length=by_length), TEXTS, BY_LENGTH, parts)
    assert sorted(text for part in cut for text in part) == sorted(TEXTS)
    assert len(cut) <= parts
    batches = [
        part[i : i + (batch or 100)] for part in cut for i in range(0, len(part), batch or 100)
    ]
    if by_length:
        # Each is what sorting put together.
        assert all(BY_LENGTH.index(some[0]) % batch == 0 for some in batches)
        assert sum(len(some) < batch for some in batches) <= 1
    else:
        assert [text for part in cut for text in part] == TEXTS


def test_a_slow_way_takes_fewer(monkeypatch):
    monkeypatch.setattr(corpus, "CHECKED", 4)
    cut = corpus._cut(way(batch=8, share=0.1), TEXTS, BY_LENGTH, 2)
    assert cut == [TEXTS[:10]]


def test_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHECKED", 4)
    monkeypatch.setattr(corpus, "PART", 20)
    stream = replace(corpus._stream("float32"), name="TextEncoder.stream bfloat16")
    adaptive = corpus._model(8, "float32", by_length=True, implementation="reference")
    dense = corpus._peer("HF SDPA float32", 8)

    def off(folder, files):
        embed = adaptive.prepare(folder, files)
        return lambda texts: embed(texts) + np.float32(1e-3)

    ways = [
        stream,
        replace(adaptive, share=1.0),
        dense,
        replace(adaptive, name="off float32", prepare=off),
        replace(adaptive, name="absent float32", why_not=lambda device: "not installed: it"),
    ]
    ticks = iter(range(1000))

    class Clock:
        now = staticmethod(lambda: float(next(ticks)))

    advances = []
    rows = corpus.corpus_rows(
        tmp_path, "shipped", lambda: advances.append(1), sentences=40, ways=ways, clock=Clock
    )
    assert len(advances) <= corpus.steps(40, ways)
    assert [row.get("sentences") for row in rows] == [40, 40, 4, None, None]
    # Two parts of a second each, and one.
    assert [row.get("texts_a_second") for row in rows] == [20, 20, 4, None, None]
    assert "error" in rows[3]["wrong"]
    assert rows[4]["skipped"] == "not installed: it"
    assert all(row["error"] <= 1e-4 for row in rows[:3])

    lines = table(rows).splitlines()
    assert "| shipped, 40 sentences | TextEncoder.stream bfloat16 | 40 | 20 | 1.00x |" in lines
    assert len(lines) == 2 + 3
    assert len(picture(rows).axes[0].patches) == 3
    assert picture(rows[3:]) is None


def test_memory():
    rows = corpus.memory_rows(effort=0.001)
    assert [row["sentences"] for row in rows] == [20, 50, 100, 200]
    peaks = [row["peak_memory"] for row in rows]
    assert peaks == sorted(peaks)
    assert peaks[0] > 2**20
    assert f"| 20 | {peaks[0] / 2**20:.0f} MiB |" in memory_table(rows)


_ALL_WAYS = """
import json, sys
from pathlib import Path
from suite import corpus
corpus.CHECKED = 6
rows = corpus.corpus_rows(Path(sys.argv[1]), "tiny", sentences=16)
Path(sys.argv[1], "rows.json").write_text(json.dumps(rows))
"""


@pytest.mark.slow
def test_all_ways(tmp_path):
    """In a process of its own: one in which all the peers have run dies of the next signal that
    Python handles."""
    done = subprocess.run(
        [sys.executable, "-c", _ALL_WAYS, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(corpus.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert not [row for row in rows if "wrong" in row], rows
    assert all("texts_a_second" in row or "not installed" in row["skipped"] for row in rows)


def test_beside_other_programs(monkeypatch):
    if native.why_no_cpp is not None:
        pytest.skip(native.why_no_cpp)
    given, loops = [], []

    @contextlib.contextmanager
    def busy(count):
        loops.append(count)
        yield

    def call(texts, threads, give_way):
        given.append((texts, threads, give_way))
        return {"seconds": 2.0 / threads, "user_seconds": 3.0 * threads, "rows": "same"}

    monkeypatch.setattr(crowd, "_busy_loops", busy)
    monkeypatch.setattr(crowd, "_call", call)
    steps = []
    rows = list(crowd.crowd_rows(lambda: steps.append(0), texts=5, rounds=3))
    assert loops == [0, os.cpu_count()]
    assert len(steps) == len(given) == crowd.steps(3)
    assert set(given) == {(5, 1, "1"), (5, 2, "1"), (5, 2, "0")}
    one, two, _ = rows[:3]
    assert (one["seconds"], one["user_seconds_of_one"]) == (2, 1)
    assert (two["seconds_of_one"], two["user_seconds_of_one"]) == (0.5, 2)
    for row in rows:
        assert row.keys() <= {key for keys in FIELDS for key in keys.split(", ")} | {"kind"}
    assert "1.0 s (0.50x) | 6.0 s (2.00x)" in crowd_table(rows)
    monkeypatch.setattr(crowd, "_call", lambda *way: call(*way) | {"rows": str(way)})
    assert all("seconds" not in row and "differ" in row["wrong"] for row in crowd.crowd_rows())


def test_a_stream_beside_a_busy_loop_is_the_same():
    """What `run crowd` starts, as it is."""
    if native.why_no_cpp is not None:
        pytest.skip(native.why_no_cpp)
    one, two = crowd._call(3, 1, "1"), crowd._call(3, 2, "0")
    assert one["rows"] == two["rows"]
    assert one["seconds"] > 0


def test_one_sentence(tmp_path, monkeypatch):
    if native.why_no_cpp is not None:
        pytest.skip(native.why_no_cpp)
    assert len(load_tokenizer()(one_sentence.SENTENCE)["input_ids"]) == one_sentence.TOKENS
    monkeypatch.setattr(one_sentence, "SIZES", ("shipped",))
    monkeypatch.setattr(parts, "SECONDS", 0.0)
    rows = one_sentence.sentence_rows(tmp_path, rounds=2)
    names = [
        f"{way} {d}"
        for d in one_sentence.DTYPES
        for way in ("TextEncoder.encode", "tokenizer and model")
    ]
    assert [row["variant"] for row in rows] == names
    for row in rows:
        assert row.keys() <= {key for keys in FIELDS for key in keys.split(", ")} | {"kind"}
        assert row["beside_products"] > 0
        assert row["of_model"] == 1 or row["variant"].startswith("TextEncoder")
    lines = sentence_table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    # What computes something else has no time.
    monkeypatch.setattr(one_sentence.TextEncoder, "encode", lambda *_, **__: np.ones(192))
    rows = one_sentence.sentence_rows(tmp_path, rounds=1)
    assert all("seconds" not in row and "differs by" in row["wrong"] for row in rows)
