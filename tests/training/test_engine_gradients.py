"""The engine with gradients against the reference loop under autograd."""

from __future__ import annotations

import pytest
import torch
from support.count_rows import count_rows
from support.models import mask_of, random_batch, random_model

from albert_act_fast import AlbertActForMaskedLM
from albert_act_fast.configuration import POSITION_TYPES

LENGTHS = (9, 1, 14, 5)
# Gradients that are 0 in exact arithmetic: softmax does not change with the keys' bias (it does
# with relative_key_query), so what is left is rounding and has no relative error.
ZERO_BUT_FOR_ROUNDING = 1e-7


def masked_lm(seed: int, dtype=torch.float32, **overrides) -> AlbertActForMaskedLM:
    return random_model(
        seed, model_class=AlbertActForMaskedLM, dtype=dtype, act_tau=0.01, **overrides
    )


def batch_of(model, seed: int, padding: str = "right") -> dict:
    mask = mask_of(LENGTHS, padding=padding, seed=seed)
    batch = random_batch(seed, model.config, mask)
    batch["labels"] = batch["input_ids"].masked_fill(mask == 0, -100)
    return batch


def gradients(model, implementation: str, **batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch, implementation=implementation).loss
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), found


def assert_same_gradients(engine: dict, reference: dict, tolerance: float) -> None:
    assert engine.keys() == reference.keys()
    largest = max(gradient.abs().max() for gradient in reference.values())
    for name, expected in reference.items():
        error = (engine[name] - expected).abs().max()
        scale = expected.abs().max()
        assert error <= max(tolerance * scale, ZERO_BUT_FOR_ROUNDING * largest), name


@pytest.mark.parametrize("padding", ["right", "left", "holes"])
@pytest.mark.parametrize("positions", POSITION_TYPES)
def test_gradients_equal_the_references_in_fp64(positions, padding):
    model = masked_lm(1, torch.float64, position_embedding_type=positions)
    batch = batch_of(model, 2, padding)
    reference_loss, reference = gradients(model, "reference", **batch)
    loss, engine = gradients(model, "torch", **batch)
    torch.testing.assert_close(loss, reference_loss, rtol=1e-12, atol=0)
    assert_same_gradients(engine, reference, 1e-11)


@pytest.mark.parametrize("epsilon", [0, 0.01, 0.4])
@pytest.mark.parametrize("limit", [1, 2, 24])
def test_gradients_in_fp32_are_as_near_the_truth_as_the_references(epsilon, limit):
    overrides = {"act_epsilon": epsilon, "num_hidden_layers": limit}
    model, exact = masked_lm(3, **overrides), masked_lm(3, torch.float64, **overrides)
    batch = batch_of(model, 4)
    _, truth = gradients(exact, "reference", **batch)
    _, reference = gradients(model, "reference", **batch)
    _, engine = gradients(model, "torch", **batch)

    def error(found):
        flat = [torch.cat([g[n].flatten().double() for n in truth]) for g in (found, truth)]
        return (flat[0] - flat[1]).norm() / flat[1].norm()

    # 2x: sums in another order round differently, not worse.
    assert error(engine) <= 2 * error(reference) + 1e-7


def test_inputs_embeds_get_the_same_gradient_and_none_at_padding():
    model = masked_lm(5, torch.float64)
    batch = batch_of(model, 6)
    ids = batch.pop("input_ids")
    embeds = model.albert.embeddings.word_embeddings(ids).detach()
    found = []
    for implementation in ("reference", "torch"):
        leaf = embeds.clone().requires_grad_()
        model(**batch, inputs_embeds=leaf, implementation=implementation).loss.backward()
        found.append(leaf.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-14)
    assert found[1][batch["attention_mask"] == 0].abs().max() == 0


def test_only_running_rows_are_computed():
    model = masked_lm(7)
    batch = batch_of(model, 8)
    with count_rows(model.albert) as counted:
        n_updates = model(**batch, implementation="torch").n_updates
    rows = counted["ffn"]
    assert rows == [int((n_updates >= i).sum()) for i in range(1, len(rows) + 1)]
    assert rows[-1] < rows[0] == sum(LENGTHS)


def test_it_trains_in_train_mode_with_dropout():
    model = masked_lm(9, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1).train()
    model.config.implementation = "torch"
    batch = batch_of(model, 10)
    torch.manual_seed(0)
    first, second = model(**batch).loss, model(**batch).loss
    assert first != second, "dropout draws anew"
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.7 * first


def test_auto_trains_on_running_rows():
    model = masked_lm(11).train()
    batch = batch_of(model, 12)
    with count_rows(model.albert) as dense:
        depths = model(**batch, implementation="reference").n_updates
    with count_rows(model.albert) as engine:
        model(**batch)
    assert sum(engine["ffn"]) == int(depths.sum()) < sum(dense["ffn"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("output_attentions", True), ("output_hidden_states", True), ("head_mask", torch.ones(4))],
)
def test_what_needs_the_dense_loop_is_refused(name, value):
    model = masked_lm(13).train()
    with pytest.raises(ValueError, match=name):
        model(**batch_of(model, 14), implementation="torch", **{name: value})


def test_gradient_checkpointing_is_refused():
    model = masked_lm(15).train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient checkpointing"):
        model(**batch_of(model, 16), implementation="torch")
