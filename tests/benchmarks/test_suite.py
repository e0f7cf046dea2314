"""The benchmark suite: what it counts, what it stops, what it writes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from albert_act_fast import AlbertActConfig, AlbertActModel
from suite import machine, timing
from suite.calibration import NotCalibrated, calibrated_model, depths_by_class
from suite.cases import SELECTIONS, Case, case_named, selected
from suite.gate import Gate, WrongResult
from suite.inputs import fixed_batch, mixed_batch, sentence_batch
from suite.measured_rows import read_rows
from suite.models import make_model
from suite.variants import Result, all_variants
from suite.work import dense_work, needed_work

ROOT = Path(__file__).parents[2]


def altered(variant, change):
    """The variant with its result changed by `change`."""

    def prepare(model, batch, folder):
        call = variant.prepare(model, batch, folder)
        return lambda: change(call())

    return dataclasses.replace(variant, prepare=prepare)


def test_needed_work_counts_rows_and_operations_by_hand():
    config = AlbertActConfig(hidden_size=4, intermediate_size=6, num_attention_heads=2)
    n_updates = torch.tensor([[2.0, 1.0, 0.0], [3.0, 3.0, 1.0]])
    work = needed_work(config, n_updates, n_updates > 0)
    assert work.running_rows == [5, 3, 2]
    assert work.rows == 10
    per_row = 2 * (2 * 4 * 4 + 2 * 4 * 6)
    keys_and_values = (5 + 5 + 3) * 2 * 2 * 4 * 4
    attention = 4 * 4 * ((2 * 2 + 3 * 3) + (1 * 2 + 2 * 3) + 2 * 3)
    assert work.flop == 10 * per_row + keys_and_values + attention


def test_nothing_halting_and_no_padding_needs_the_dense_work():
    config = AlbertActConfig(hidden_size=4, intermediate_size=6, num_attention_heads=2)
    everything = torch.full((2, 3), 5.0)
    assert needed_work(config, everything, everything > 0) == dense_work(config, 2, 3, 5)


def test_batches_have_the_lengths_asked_for():
    assert fixed_batch(3, 20).input_ids.shape == (3, 20)
    mixed = mixed_batch(9, 30)
    lengths = mixed.attention_mask.sum(1)
    assert lengths.max() == 30
    assert lengths.min() >= 8
    assert len(set(lengths.tolist())) > 3
    assert torch.equal(mixed.input_ids == 0, mixed.attention_mask == 0)
    assert sentence_batch(5, "sst2").input_ids.size(0) == 5


def test_own_sentences_repeat_only_where_there_are_no_others(monkeypatch):
    monkeypatch.delenv("ALBERT_ACT_FAST_DATA", raising=False)
    few, many = (sentence_batch(count, "sst2").input_ids.tolist() for count in (20, 200))
    assert len(set(map(tuple, few))) == 20
    assert 20 < len(set(map(tuple, many))) < 200


def test_the_shortest_sequences_keep_their_tokens():
    batch = mixed_batch(9, 30)
    chosen, part = batch.shortest(60)
    lengths = batch.attention_mask.sum(1)
    assert part.input_ids.numel() <= 60
    assert part.input_ids.size(1) == lengths[chosen].max()
    assert lengths[chosen].max() <= min(n for i, n in enumerate(lengths) if i not in chosen)
    assert part.tokens == lengths[chosen].sum()
    assert torch.equal(part.input_ids, batch.input_ids[chosen, : part.input_ids.size(1)])
    assert fixed_batch(4, 20).shortest(1)[1].input_ids.shape == (1, 20)


def test_calibration_reaches_the_depths_and_refuses_what_misses_them():
    batch = fixed_batch(2, 24)
    with torch.no_grad():
        model = calibrated_model("tiny", batch, depth=3)
        depths = depths_by_class(model(batch.input_ids, batch.attention_mask).n_updates, batch)
        assert depths["[CLS]"] == pytest.approx(6, rel=0.1)
        assert depths["all"] == pytest.approx(3, rel=0.15)
        with pytest.raises(NotCalibrated, match=r"others .* \(target 3\)"):
            calibrated_model("tiny", batch, depth=3, rounds=1)


def test_a_wrong_variant_is_stopped_and_has_no_time(run):
    variants = all_variants()
    variants["torch float32"] = altered(
        variants["torch float32"], lambda r: Result(r.hidden + 1e-4, r.n_updates)
    )
    runner, rows = run(variants)
    assert runner.wrong == ["torch float32"]
    (wrong,) = [row for row in rows if row["variant"] == "torch float32"]
    assert "error 1.0e-04, at most 1.0e-05 expected" in wrong["wrong"]
    assert "seconds" not in wrong


@torch.no_grad()
@pytest.mark.parametrize("name", ["torch float32", "torch bfloat16", "HF SDPA float32"])
@pytest.mark.parametrize("how", ["noise", "nan", "depths"])
def test_the_gate_passes_the_right_and_stops_the_wrong(tmp_path, small_case, name, how):
    model, batch, variant = make_model(small_case), small_case.inputs(), all_variants()[name]
    gate = Gate(model, batch)
    result = variant.prepare(model, batch, tmp_path)()
    gate.check(variant, result)
    hidden, n_updates = result.hidden.clone(), result.n_updates
    if how == "noise":
        hidden += 0.1 * torch.randn_like(hidden)
    elif how == "nan":
        hidden[0, 0, 0] = float("nan")
    elif n_updates is None:
        return  # fixed depth
    else:
        n_updates = n_updates + 1
    with pytest.raises(WrongResult, match=name):
        gate.check(variant, Result(hidden, n_updates))


def test_rows_of_a_case(run):
    _, rows = run(all_variants())
    by_name = {row["variant"]: row for row in rows}
    reference, engine = by_name["reference float32"], by_name["torch float32"]
    assert reference["speed_up"] == 1
    assert reference["rows"] == reference["dense_rows"] == 3 * 20 * len(engine["running_rows"])
    assert engine["rows"] == sum(engine["running_rows"]) < engine["tokens"] * 12
    assert engine["work_saved"] == pytest.approx(reference["rows"] / engine["rows"], abs=1e-3)
    assert engine["useful_flops"] == pytest.approx(engine["share_of_peak"] * engine["peak_flops"])
    assert engine["share_of_peak"] == engine["kernel_efficiency"]
    assert reference["share_of_peak"] < reference["kernel_efficiency"]
    assert engine["seconds_low"] <= engine["seconds"] <= engine["seconds_high"]
    assert {"machine", "threads", "versions", "commit"} <= engine.keys()


def test_interleaving_gives_every_variant_one_turn_a_round():
    turns = []
    calls = {name: (lambda name=name: turns.append(name)) for name in "abc"}
    seconds = timing.interleave(calls, dict.fromkeys("abc", 1.0), rounds=4)
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 4)
    assert all(sorted(turns[i : i + 3]) == list("abc") for i in range(0, 12, 3))


def test_a_turn_is_the_median_of_its_calls_and_the_first_does_not_count():
    seconds = iter([9.0, *[0.05, 0.03, 5.0] * 7])
    now = 0.0

    def pass_time(seconds):
        nonlocal now
        now += seconds

    clock = timing.Clock(now=lambda: now, pause=pass_time)
    measured = timing.turn(lambda: pass_time(next(seconds)), 0.04, lambda: None, clock)
    assert measured == pytest.approx(0.05)
    assert len(list(seconds)) == 21 - 3


def test_a_peak_is_found_on_a_machine_that_is_held_up():
    """A second passes whenever nobody looks: longer than all the time there is for a peak."""
    seconds = iter(range(100))
    clock = timing.Clock(now=lambda: float(next(seconds)))
    assert machine.shortest(lambda: None, "cpu", clock) == 1.0


def test_cases_can_be_found_by_their_names():
    for name in SELECTIONS:
        for case in selected(name):
            assert case_named(case.name).name == case.name
            assert set(case.variants) <= set(all_variants())
    with pytest.raises(ValueError, match="selection: got 'all', expected one of quick"):
        selected("all")


def test_hugging_faces_albert_gets_all_weights():
    """A weight that was not carried over would be random."""
    from suite.peers import fixed_depth, hugging_face

    torch.manual_seed(0)
    config = AlbertActConfig.tiny(
        hidden_size=24, intermediate_size=40, num_attention_heads=2, hidden_act="gelu_new"
    )
    model, batch = AlbertActModel(config).eval(), mixed_batch(2, 12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        hf = hugging_face(model)(batch.input_ids, batch.attention_mask)
        token = batch.attention_mask.bool()
        expected = fixed_depth(model, batch)
        torch.testing.assert_close(hf.last_hidden_state[token], expected[token])


def test_the_quick_selection_runs(tmp_path):
    """As `make bench` does; nothing is said about its times."""
    output = tmp_path / "rows.jsonl"
    command = [sys.executable, str(ROOT / "benchmarks"), "run", "quick", "--output", str(output)]
    done = subprocess.run(
        [*command, "--effort", "0.1", "--no-memory"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(output)
    assert {row["case"] for row in rows} == {case.name for case in selected("quick")}
    assert all("seconds" in row or "skipped" in row for row in rows)
    timed = {row["variant"] for row in rows if "seconds" in row}
    assert {"reference float32", "torch float32", "HF SDPA float32"} <= timed
    skipped = {row["variant"]: row["skipped"] for row in rows if "skipped" in row}
    assert all(skipped.values())


def test_a_case_of_other_text_is_another_case():
    assert Case("base", "sst2", 4).name != Case("base", "wiki", 4).name
