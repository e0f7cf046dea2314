"""`eval --sweep`: the same task under other rules, each exact."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from albert_act_fast import AlbertActForSequenceClassification
from albert_act_fast.glue import evaluate
from albert_act_fast.glue.sweep import rules, sweep, sweep_figure
from albert_act_fast.shipped import shipped_model
from albert_act_fast.tokenizer import load_tokenizer

GLUE = Path(__file__).parents[1] / "fixtures" / "glue"
ARGS = ["eval", "--task", "sst-2", "--data", GLUE, "--model", "sst2"]


def test_rules():
    assert rules(3, 0.2) == [(3, 0.2), (1, 0.2), (2, 0.2), (3, 0.3), (3, 0.5)]


@pytest.fixture(scope="module")
def loaded():
    folder = shipped_model("sst2")
    return AlbertActForSequenceClassification.from_pretrained(folder), load_tokenizer(folder)


@pytest.fixture(scope="module")
def points(loaded):
    return list(sweep(*loaded, "sst-2", GLUE))


def test_points_are_those_of_a_model_with_that_rule(loaded, points):
    model, tokenizer = loaded
    own = points[0]
    assert (own.full, own.rows_of_full) == (True, 1)
    assert (own.max_iterations, own.act_epsilon) == (12, 0.01)
    assert [p.full for p in points].count(True) == 1
    fewer = [p for p in points if p.act_epsilon == 0.01][1:]
    assert [p.rows_computed for p in fewer] == sorted(p.rows_computed for p in fewer)
    assert fewer[0].mean_depth == 1
    wider = [p for p in points if p.max_iterations == 12]
    assert all(a.rows_computed >= b.rows_computed for a, b in pairwise(wider))
    assert (model.config.num_hidden_layers, model.config.act_epsilon) == (12, 0.01)
    model.config.num_hidden_layers = 3
    alone = evaluate(model, tokenizer, "sst-2", GLUE, "reference")
    model.config.num_hidden_layers = 12
    (three,) = [p for p in points if p.max_iterations == 3]
    assert (three.metrics, three.mean_depth) == (alone.metrics, alone.mean_depth)


def test_a_failure_leaves_the_model_s_own_rule(loaded):
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="implementation"):
        list(sweep(model, tokenizer, "sst-2", GLUE, "nothing"))
    assert (model.config.num_hidden_layers, model.config.act_epsilon) == (12, 0.01)


def test_figure_marks_the_model_s_own_rule(points):
    (axes,) = sweep_figure(points, "accuracy", "SST-2").axes
    star = axes.lines[-1]
    assert (star.get_marker(), list(star.get_xdata())) == ("*", [100])
    assert sum(len(line.get_xdata()) for line in axes.lines) == len(points) + 2


def test_command(command, error, points, tmp_path):
    picture = tmp_path / "sweep.png"
    result = command(*ARGS, "--sweep", "--plot", picture)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + len(points)
    assert lines[1].endswith("the model's own")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "without --sweep" in error(*ARGS, "--plot", picture)
    assert error(*ARGS, "--sweep", "--task", "all").startswith("--sweep: got it with --task all")


def test_json(command, points):
    found = json.loads(command(*ARGS, "--sweep", "--json", "--limit", 4).stdout)
    assert found["task"] == "sst-2"
    assert len(found["points"]) == len(points)
