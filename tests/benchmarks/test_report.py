"""Comparing rows, and what is made of them."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from suite import plots, report, tables
from suite.cases import BASELINE, selected
from suite.commits import Baton
from suite.compare import compare_rows
from suite.timing import Clock
from suite.variants import all_variants

FACTS = {
    "machine": "a machine",
    "threads": 2,
    "instruction_set": "avx2",
    "commit": "0123456789",
    "versions": {"torch": "2.13.0"},
}
SPEED = {BASELINE: 1.0, "torch float32": 1.1, "cpp float32": 1.5, "cpp bfloat16": 3.0}
SPEED |= {"cpp int8": 5.0, "HF compiled float32": 1.2, "OpenVINO int8": 4.0}


def made_up_rows() -> list[dict]:
    """Of every case of a CPU report: a machine on which a row costs a millisecond."""
    rows = []
    for case in selected("cpu"):
        batch, length = case.batch, case.length or 30
        depth = case.depth or 10
        running = [max(1, round(batch * length * (1 - i / (2.2 * depth)))) for i in range(24)]
        dense = batch * length * 24
        for variant, speed in SPEED.items():
            saved = 1.0 if variant in (BASELINE, *plots.SHOWN_PEERS) else dense / sum(running)
            seconds = 1e-3 * dense / saved / speed
            rows.append(
                {
                    "kind": "model",
                    "case": case.name,
                    "size": case.size,
                    "text": "some",
                    "batch": batch,
                    "length": length,
                    "tokens": batch * length,
                    "iteration_limit": 24,
                    "depths": {"all": sum(running) / (batch * length)},
                    "dense_rows": dense,
                    "running_rows": running,
                    "variant": variant,
                    "dtype": variant.split()[-1],
                    "seconds": seconds,
                    "seconds_low": 0.9 * seconds,
                    "seconds_high": 1.1 * seconds,
                    "speed_up": saved * speed,
                    "ratios": [saved * speed] * 5,
                    "rows": round(dense / saved),
                    "useful_flops": 1e9,
                    "share_of_peak": 0.5,
                    "kernel_efficiency": 0.5,
                    "work_saved": saved,
                    "peak_memory": 2**27 if case.memory else None,
                    "error": 1e-7,
                    **FACTS,
                }
            )
    rows.append({"kind": "model", "case": "base, 8 x 128", "variant": "OpenVINO float32"})
    rows[-1] |= {"skipped": "not installed: openvino", **FACTS}
    operator = {"kind": "operator", "case": "write_kv, 1 x 16", "variant": "cpp float32", **FACTS}
    operator |= {"seconds": 1e-5, "seconds_low": 1e-5, "seconds_high": 1e-5, "speed_up": 2.0}
    parts = {"kind": "parts", "case": "16 rows", "variant": "cpp int8", "dtype": "int8", **FACTS}
    parts |= {"seconds": 4e-3, "products": 2e-3, "attention": 1e-4, "other": 1e-5, "outside": 1e-3}
    rows.append({**parts, "flop": 1e9, "peak_flops": 1e12})
    serve = {"kind": "serve", "case": "base", "variant": "serve cpp float32", "load": 0.5, **FACTS}
    serve |= {"rate": 31.0, "throughput": 31.0, "p50": 0.0123, "p99": 0.02, "requests": 9}
    rows.append({**serve, "failed": 0})
    way = "TextEncoder.stream bfloat16"
    corpus = {"kind": "corpus", "case": "base, 9 sentences", "variant": way, **FACTS}
    rows.append({**corpus, "sentences": 9, "texts_a_second": 123.0, "error": 1e-3})
    return [*rows, {**operator, "ratios": [2.0] * 5, "floor_seconds": 5e-6, "share_of_floor": 0.5}]


class StatedSeconds:
    """A clock that nothing moves but the variants, each by the seconds stated for its calls and a
    tenth of them more or less."""

    def __init__(self, seed: int, **seconds: float):
        self.chooser, self.time = random.Random(seed), 0.0
        self.clock = Clock(now=lambda: self.time, pause=self.spend)
        self.variants = {
            variant.name: dataclasses.replace(variant, prepare=self.timed(variant, seconds))
            for variant in all_variants().values()
        }

    def spend(self, seconds: float) -> None:
        self.time += seconds

    def timed(self, variant, seconds):
        def prepare(model, batch, folder):
            # What a call takes is stated, so that it need not be made again and again.
            call = functools.cache(variant.prepare(model, batch, folder))

            def run():
                self.spend(seconds[variant.name.split()[0]] * self.chooser.uniform(0.9, 1.1))
                return call()

            return run

        return prepare


def test_a_slowed_kernel_is_flagged(run, small_case):
    runs = (
        StatedSeconds(0, reference=0.1, torch=0.05),
        StatedSeconds(1, reference=0.1, torch=0.05),
        StatedSeconds(2, reference=0.1, torch=0.075),
    )
    case = dataclasses.replace(small_case, seconds=2.0)
    before, again, after = (run(stated.variants, case, stated.clock)[1] for stated in runs)
    assert not any(change.is_regression for change in compare_rows(before, again))
    (change,) = [c for c in compare_rows(before, after) if c.is_regression]
    assert change.variant == "torch float32"
    assert change.old == pytest.approx(2, rel=0.1)
    assert change.new == pytest.approx(4 / 3, rel=0.1)


def test_noise_is_no_regression_and_a_wrong_result_is_one():
    chooser = random.Random(0)
    old = made_up_rows()
    new = [dict(row) for row in old]
    for row in new:
        if "ratios" in row:
            row["ratios"] = [row["speed_up"] * chooser.uniform(0.8, 1.25) for _ in range(9)]
            row["speed_up"] = sorted(row["ratios"])[4]
    assert not any(change.is_regression for change in compare_rows(old, new))
    for field in ("seconds", "speed_up", "ratios"):
        del new[3][field]
    new[3]["wrong"] = "error 1.0"
    (change,) = [change for change in compare_rows(old, new) if change.is_regression]
    assert (change.case, change.variant, change.reason) == (
        new[3]["case"],
        new[3]["variant"],
        "error 1.0",
    )


def test_two_runs_take_turns_until_one_ends():
    pipes = [os.pipe(), os.pipe()]
    log = []

    def run(place, rounds):
        take, give = pipes[place][0], pipes[1 - place][1]
        baton = Baton(take, give, first=place == 0)
        for i in range(rounds):
            log.append((place, i))
            baton.pass_on()
        os.close(take)
        os.close(give)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (0, 1), (2, 4)))
    assert log == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (1, 3)]


def test_what_is_compared_is_the_ratio():
    """A machine at half its speed is no regression."""
    old = made_up_rows()
    new = [{**row, "seconds": 2 * row.get("seconds", 0)} for row in old]
    assert not any(change.is_regression for change in compare_rows(old, new))
    with pytest.raises(ValueError, match="no timed case in common"):
        compare_rows(old, [{**row, "case": "another"} for row in old])


def test_the_report_shows_everything(tmp_path):
    page = report.write_report(made_up_rows(), tmp_path)
    drawn = sorted(path.stem for path in tmp_path.glob("*.png"))
    assert drawn == sorted(name for name, _, _ in plots.PICTURES)
    text = page.read_text()
    assert all(f'src="{name}.png"' in text for name in drawn)
    assert "not installed: openvino" in text
    assert "500 (50%)" in text  # the products' GFLOP/s of a call's parts
    assert "12 ms" in text  # the service's median
    assert all(case.name in text for case in selected("cpu"))


def test_a_report_of_little_shows_what_there_is(tmp_path):
    rows = [row for row in made_up_rows() if row["case"] == "base, 1 x 16"]
    report.write_report(rows, tmp_path)
    assert [path.stem for path in tmp_path.glob("*.png")] == []
    with pytest.raises(ValueError, match="none of the rows"):
        report.write_report([], tmp_path)


def test_the_fit_finds_the_cost_of_a_row():
    constant, slope, r2 = plots.fit(made_up_rows(), "cpp float32")
    assert slope == pytest.approx(1e-3 / 1.5, rel=1e-3)
    assert constant == pytest.approx(0, abs=1e-2)
    assert r2 == pytest.approx(1)


def test_the_break_even_depth_lies_between_those_measured():
    rows = made_up_rows()
    points = plots.with_depth(rows, "cpp float32")[2:4]
    middle = (points[0]["seconds"] + points[1]["seconds"]) / 2
    depth = plots.crossing(rows, "cpp float32", middle)
    assert depth == pytest.approx((points[0]["depths"]["all"] + points[1]["depths"]["all"]) / 2)
    assert plots.crossing(rows, "cpp float32", 1e9) is None


def test_tables_stand_between_their_markers():
    text = "before\n<!-- rows: speed-ups -->\nold\n<!-- end of rows -->\nafter\n"
    filled = tables.filled(text, made_up_rows())
    assert filled.startswith("before\n<!-- rows: speed-ups -->\n\n| input |")
    assert filled.endswith("\n<!-- end of rows -->\nafter\n")
    assert "old" not in filled
    assert tables.filled(filled, made_up_rows()) == filled
    with pytest.raises(ValueError, match="rows: got 'nothing', expected one of where"):
        tables.filled(text.replace("speed-ups", "nothing"), made_up_rows())
