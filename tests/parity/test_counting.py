"""How many rows enter every product: those of running tokens, never more."""

from __future__ import annotations

import pytest
import torch
from support.compare import run, trace_reference
from support.count_rows import count_rows
from support.engines import ENGINES, WITH_GRADIENTS
from support.models import mask_of, random_batch, random_lengths, random_model

from albert_act_fast import engine

every_engine = pytest.mark.parametrize(("device", "implementation"), ENGINES)


@every_engine
@pytest.mark.parametrize("position", ["absolute", "relative_key"])
@pytest.mark.parametrize("limit", [1, 2, 7, 24])
@pytest.mark.parametrize("padding", ["right", "holes"])
def test_only_running_tokens_are_computed(padding, limit, position, device, implementation):
    model = random_model(limit, num_hidden_layers=limit, position_embedding_type=position)
    mask = mask_of(random_lengths(limit, 9, 30), 33, padding)
    inputs = random_batch(limit, model.config, mask)
    traced = trace_reference(model, **inputs)
    assert not traced.is_open[mask == 1].any(), "choose another seed"
    depths = traced.output.n_updates[mask == 1]
    running = [int((depths >= t).sum()) for t in range(1, int(depths.max()) + 1)]
    assert running == sorted(running, reverse=True)
    assert limit < 7 or running[-1] < running[0] / 2

    model.to(device)
    with count_rows(model) as rows:
        run(model, implementation, **{k: v.to(device) for k, v in inputs.items()})
    tokens = int(mask.sum())
    assert rows["mapping"] == [tokens]
    for name in ("query", "dense", "ffn", "ffn_output"):
        assert rows[name] == running, name
    # Keys and values change where the state moved in the iteration before: its running tokens.
    for name in ("key", "value"):
        assert rows[name] == [tokens, *running[:-1]], name


@every_engine
def test_everything_halts_at_once(device, implementation):
    model = random_model(0, halting_bias=20.0)
    mask = mask_of([4, 0, 9])
    inputs = random_batch(0, model.config, mask)
    model.to(device)
    with count_rows(model) as rows:
        run(model, implementation, **{k: v.to(device) for k, v in inputs.items()})
    assert all(of_product == [13] for of_product in rows.values())
    assert len(rows) == 7


@every_engine
def test_a_batch_of_padding_computes_nothing(device, implementation):
    model = random_model(0)
    inputs = random_batch(0, model.config, torch.zeros(3, 5, dtype=torch.int64))
    model.to(device)
    with count_rows(model) as rows:
        run(model, implementation, **{k: v.to(device) for k, v in inputs.items()})
    assert sum(sum(of_product) for of_product in rows.values()) == 0


@pytest.mark.parametrize(
    ("device", "implementation"), [p for p in ENGINES if WITH_GRADIENTS not in p.values[1]]
)
def test_the_engine_reports_its_running_rows(device, implementation):
    model = random_model(1)
    mask = mask_of([7, 13])
    inputs = {k: v.to(device) for k, v in random_batch(1, model.config, mask).items()}
    output = run(model.to(device), "reference", **inputs)
    tokens = engine.pack(mask.bool().to(device))
    limits = model.config.halting_limits
    mapping, embeddings = model.encoder.embedding_hidden_mapping_in, []
    with mapping.register_forward_pre_hook(lambda _, inputs: embeddings.append(inputs[0])):
        run(model, "reference", **inputs)
    with torch.no_grad():
        call = engine.call_of(model, implementation)
        for way in engine.ENGINES[implementation]:
            if way.why_not(call) is None and way is not engine.gpu:
                rows = embeddings[0][mask == 1]
                if not (hasattr(way, "maps") and way.maps(call)):
                    rows = mapping(rows)
                result = way.iterate(call, rows, tokens, limits)
                break
    depths = output.n_updates[mask == 1]
    assert result.running_rows == [
        int((depths >= t).sum()) for t in range(1, int(depths.max()) + 1)
    ]
    assert torch.equal(result.n_updates, depths)
