"""The predictions for GPUs: the arithmetic they rest on, and that the committed file is theirs."""

from __future__ import annotations

import itertools

import cost_model as model
import pytest
from support.models import random_model

from albert_act_fast.engine.gpu.graphs import Capacity
from suite.calibration import PUBLISHED_OF_ALL


def test_the_committed_file_is_what_the_model_predicts():
    text = model.DOCUMENT.read_text(encoding="utf-8")
    assert text == model.document(), "run `make predictions`"
    assert "**A prediction.** Nothing here was measured" in text
    sections = [line for line in text.splitlines() if line.startswith("#")]
    assert all("predicted" in line for line in sections)
    rows = [line for line in text.splitlines() if line.startswith(("| tiny", "| small", "| base"))]
    assert len(rows) == len(model.GPUS) * 3 * len(model.BATCHES)


def test_rows_follow_the_published_depths():
    for size, mean in PUBLISHED_OF_ALL.items():
        rows = model.running_rows(size, 32)
        assert rows[0] == 32 * 128
        assert rows == sorted(rows, reverse=True)
        assert sum(rows) / rows[0] == pytest.approx(mean, rel=0.04)
    assert sum(model.tokens_of(model.LENGTH).values()) == model.LENGTH


def test_work_is_that_of_the_layer():
    layer = random_model(0, "base").encoder.albert_layer
    products = [layer.attention.query, layer.attention.key, layer.attention.value]
    products += [layer.attention.dense, layer.ffn, layer.ffn_output]
    weights = sum(product.weight.numel() for product in products)
    kernels = list(model.iteration_kernels(4096, 4096, Capacity(4096, 32), model.GPUS["A100"]))
    assert [kernel.name for kernel in kernels] == [
        "project_qkv",
        "ragged_attention",
        "linear",
        "add_layer_norm",
        "linear",
        "split_linear",
        "halting_step",
    ]
    copied = model.iteration_kernels(4096, 4096, Capacity(4096, 32), model.GPUS["H100"])
    assert [kernel.name for kernel in copied if kernel.name.startswith("wide_")] == [
        "wide_project_qkv",
        "wide_linear",
        "wide_linear",
        "wide_linear",
    ]
    alone = model.iteration_kernels(
        4096, 4096, Capacity(4096, 32), model.GPUS["A100"], halting_step="triton"
    )
    assert [kernel.name for kernel in alone][-2:] == ["decide", "move"]
    of_products = sum(k.flops for k in kernels if "project" in k.name or "linear" in k.name)
    assert of_products == 2 * 4096 * weights
    attention = next(k.flops for k in kernels if k.name == "ragged_attention")
    assert attention == 2 * 2 * 4096 * 128 * 768


@pytest.mark.parametrize("name", ["A100", "H100"])
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_predictions_are_possible(name, size):
    gpu = model.GPUS[name]
    last = 0.0
    for batch in (1, 2, 8, 32, 128):
        dropping = model.predict(size, batch, gpu, dropping=True)
        everything = model.predict(size, batch, gpu, dropping=False)
        library = model.dense_library(size, batch, gpu)
        for prediction in (dropping, everything, library):
            assert prediction.flops / prediction.seconds <= gpu.flops
            assert prediction.seconds >= prediction.launches * model.LEAVING
        # Of one sequence few rows take tiles and parts that by the model are a little too many.
        most = 1.02 if batch == 1 else 1.001
        assert last < dropping.seconds <= everything.seconds * most
        assert everything.launches == 7 * model.ITERATIONS[size]
        alone = model.predict(size, batch, gpu, dropping=True, halting_step="triton")
        assert dropping.seconds < alone.seconds
        assert alone.launches == 8 * model.ITERATIONS[size]
        saved = batch * 128 * model.ITERATIONS[size] / sum(model.running_rows(size, batch))
        assert everything.seconds / dropping.seconds <= saved
        last = dropping.seconds * 0.999


def test_more_of_anything_takes_no_less():
    for architecture in ("sm_80", "sm_90"):
        gpu = next(g for g in model.GPUS.values() if g.architecture == architecture)

        def seconds(rows, moved, gpu=gpu):
            kernels = model.iteration_kernels(rows, moved, Capacity(4096, 32), gpu)
            return sum(kernel.seconds(gpu) for kernel in kernels)

        times = [seconds(rows, 4096) for rows in range(16, 4097, 48)]
        assert all(a <= b * 1.05 for a, b in itertools.pairwise(times))
        assert seconds(100, 100) < seconds(100, 4096)
