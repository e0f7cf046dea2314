"""Training with the ACT loss: the loss falls, and tau decides how deep tokens go."""

from __future__ import annotations

import pytest
import torch

from albert_act_fast import AlbertActConfig, AlbertActForMaskedLM

STEPS = 60


def trained(tau: float) -> tuple[list[float], float]:
    """Losses without the ponder cost and the final mean depth, after a few steps of learning to
    tell a masked token from its neighbours."""
    torch.manual_seed(3)
    model = AlbertActForMaskedLM(
        AlbertActConfig(
            vocab_size=24,
            embedding_size=8,
            hidden_size=16,
            num_attention_heads=2,
            intermediate_size=32,
            num_hidden_layers=8,
            max_position_embeddings=16,
            hidden_dropout_prob=0,
            attention_probs_dropout_prob=0,
        )
    )
    with torch.no_grad():
        model.albert.encoder.albert_layer.act.dense.bias.fill_(-1.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    start = torch.arange(8).unsqueeze(1)
    labels = 5 + (start + torch.arange(8)) % 8  # each row counts up: a neighbour tells the answer
    input_ids = labels.clone()
    masked = torch.eye(8, dtype=torch.bool)
    input_ids[masked] = 4
    labels = labels.masked_fill(~masked, -100)
    losses = []
    for _ in range(STEPS):
        output = model(input_ids, labels=labels, act_tau=tau)
        losses.append((output.loss - tau * output.ponder_cost.sum(-1).mean()).item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return losses, output.n_updates.mean().item()


@pytest.fixture(scope="module")
def runs() -> dict[float, tuple[list[float], float]]:
    return {tau: trained(tau) for tau in (0.0, 0.1)}


def test_the_loss_falls(runs):
    for tau, (losses, _) in runs.items():
        assert losses[-1] < 0.5 * losses[0], tau


def test_a_greater_tau_gives_shallower_tokens(runs):
    (_, without), (_, with_tau) = runs[0.0], runs[0.1]
    assert with_tau < without - 1
    assert with_tau >= 1


def test_the_schedule_holds_the_halting_unit_back(load_example):
    training = load_example("training")
    model = torch.nn.ModuleDict({"act": torch.nn.ModuleDict({"dense": torch.nn.Linear(3, 1)})})
    model["other"] = torch.nn.Linear(3, 3)
    optimizer = training.make_optimizer(model, weight_decay=0.1)
    schedule = training.Schedule(100, 1.0, warmup=10, halting_factor=0.5, halting_from=20)
    found = {}
    for step in (0, 9, 19, 20, 99):
        schedule.apply(optimizer, step)
        found[step] = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert found[0]["matrices"] == pytest.approx(0.1)
    assert found[9]["vectors"] == 1.0
    assert found[19]["halting"] == 0.0
    assert found[20]["halting"] == pytest.approx(0.5 * found[20]["matrices"])
    assert found[99]["matrices"] == pytest.approx(1 / 90)


def test_a_loss_that_is_not_finite_stops_the_training(load_example, tmp_path):
    training = load_example("training")
    model = torch.nn.Linear(2, 1)
    with pytest.raises(FloatingPointError, match="step 0: the loss is nan"):
        training.train(
            model,
            training.make_optimizer(model, 0.0),
            tmp_path,
            schedule=training.Schedule(3, 0.1, 1),
            seed=0,
            loss_at=lambda step: (model.weight.sum() * float("nan"), {}),
            evaluate=dict,
        )


def test_swapped_segments_and_masks_of_a_batch(load_example):
    pretrain = load_example("pretrain")
    from albert_act_fast.tokenizer import load_tokenizer

    tokenizer = load_tokenizer()
    arguments = "--text x --output y --max-length 16 --batch-tokens 64 --mask-share 0.5"
    args = pretrain.parse_arguments(arguments.split())
    document = [[100 + 10 * i + j for j in range(5)] for i in range(30)]
    batches = pretrain.Batches([document], tokenizer, args, seed=0)
    seen = set()
    for step in range(20):
        batch = batches.at(step)
        again = pretrain.Batches([document], tokenizer, args, seed=0).at(step)
        assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
        original = torch.where(batch.labels == -100, batch.input_ids, batch.labels)
        for row, types, order in zip(
            original, batch.token_type_ids, batch.sentence_order, strict=True
        ):
            real = row[row != tokenizer.pad_token_id].tolist()
            assert real[0] == tokenizer.cls_token_id
            assert real[-1] == tokenizer.sep_token_id
            middle = real.index(tokenizer.sep_token_id)
            first, second = real[1:middle], real[middle + 1 : -1]
            if order:
                first, second = second, first
            together = first + second
            assert together == sorted(together)  # the text's order, nothing left out in between
            assert types[middle] == 0
            assert types[middle + 1] == 1
            seen.add(int(order))
    assert seen == {0, 1}
