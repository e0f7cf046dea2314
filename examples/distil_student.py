"""The student of `distil.py`: how it is made and what it starts from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from training import random_for

from albert_act_fast import AlbertActConfig, AlbertActModel


class SteeredTau(nn.Module):
    """tau, raised and lowered so that the mean depth of a batch stays near the one wanted."""

    def __init__(self):
        super().__init__()
        # Buffers, so that a resumed run goes on with them; NaN before the first step.
        self.register_buffer("tau", torch.tensor(float("nan"), dtype=torch.float64))
        self.register_buffer("mean_depth", torch.tensor(float("nan"), dtype=torch.float64))

    def steer(self, depth: float, wanted: float, first: float, gain: float) -> float:
        """The tau of this step: raised while tokens go deeper than wanted, lowered while they stop
        earlier. It may get negative, which rewards depth: the only way back from a collapse."""
        if self.tau.isnan():
            self.tau.fill_(first)
            self.mean_depth.fill_(depth)
        before = self.mean_depth.item()
        self.mean_depth.mul_(0.9).add_(0.1 * depth)
        now = self.mean_depth.item()
        # The second term sees where depth is going, and keeps tau from swinging.
        self.tau.add_(gain * (now - wanted) + 50 * gain * (now - before))
        return self.tau.item()


class Student(nn.Module):
    """The model, a projection to the teacher's width where the two differ, and its tau."""

    def __init__(self, encoder: AlbertActModel, width: int):
        super().__init__()
        self.encoder = encoder
        hidden = encoder.config.hidden_size
        self.projection = nn.Identity() if hidden == width else nn.Linear(hidden, width)
        self.tau = SteeredTau()

    @torch.no_grad()
    def spread_halting(self, spread: float, seed: int) -> None:
        """Gives the halting unit, constant so far, weights: from now on depths differ."""
        generator = torch.Generator().manual_seed(random_for(seed, "halting").getrandbits(63))
        self.encoder.encoder.albert_layer.act.dense.weight.normal_(std=spread, generator=generator)


def make_student(args, vocabulary: int, width: int, tokenizer) -> Student:
    torch.manual_seed(args.seed)
    config = AlbertActConfig(
        vocab_size=vocabulary,
        embedding_size=args.embedding_size,
        hidden_size=args.hidden_size or width,
        num_attention_heads=args.heads,
        intermediate_size=args.intermediate_size,
        num_hidden_layers=args.iterations,
        hidden_act=args.hidden_act,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        # The engine with gradients: running tokens only.
        implementation="torch",
    )
    return Student(AlbertActModel(config, add_pooling_layer=False), width)


@torch.no_grad()
def initialise(student: Student, static: Tensor, counts: Tensor, args) -> float:
    """Word embeddings and mapping from a factorisation of `static` [V, W]; the halting unit
    constant, with about `args.depth` iterations.

    Returns:
        Share of the (frequency-weighted) variance of `static` that the embeddings hold.
    """
    encoder, config = student.encoder, student.encoder.config
    embeddings, mapping = encoder.embeddings, encoder.encoder.embedding_hidden_mapping_in
    layer = encoder.encoder.albert_layer
    # Where widths differ, the student's states are the main directions of the teacher's.
    if isinstance(student.projection, nn.Linear):
        mean = static.mean(0)
        basis = torch.linalg.svd(static - mean, full_matrices=False)[2][: config.hidden_size]
        rows = min(len(basis), config.hidden_size)
        student.projection.weight.zero_()[:, :rows] = basis[:rows].T
        student.projection.bias.copy_(mean)
        target = static.new_zeros(len(static), config.hidden_size)
        target[:, :rows] = (static - mean) @ basis[:rows].T
    else:
        target = static
    # Between counting every entry alike and counting every occurrence.
    weight = (counts + 3).sqrt().unsqueeze(1)
    mean = (weight * target).sum(0) / weight.sum()
    centred = target - mean
    _, directions = torch.linalg.eigh(centred.T @ (weight * centred))
    basis = directions.flip(1)[:, : config.embedding_size]
    # Rotated at random, so that LayerNorm's centring takes away next to nothing.
    rotation = torch.linalg.qr(torch.randn(basis.size(1), basis.size(1)))[0]
    factors = centred @ basis @ rotation
    factors = factors / factors.square().mean().sqrt()
    embeddings.word_embeddings.weight.zero_()[:, : factors.size(1)] = factors
    embeddings.position_embeddings.weight.zero_()
    embeddings.token_type_embeddings.weight.zero_()
    normed = embeddings.LayerNorm(embeddings.word_embeddings.weight)
    inputs = torch.cat([normed, torch.ones(len(normed), 1)], 1)
    ridge = 1e-3 * weight.sum() * torch.eye(inputs.size(1))
    solution = torch.linalg.solve(
        inputs.T @ (weight * inputs) + ridge, inputs.T @ (weight * target)
    )
    mapping.weight.copy_(solution[:-1].T)
    mapping.bias.copy_(solution[-1])
    missed = (weight * (inputs @ solution - target).square()).sum()
    # With small weights in between, the layer's two norms hand the states on as they are.
    layer.full_layer_layer_norm.weight.fill_(target.std(1).mean().item())
    layer.full_layer_layer_norm.bias.fill_(target.mean().item())
    layer.act.dense.weight.zero_()
    # n iterations: n times the probability passes the threshold, n - 1 times does not.
    probability = config.halting_threshold / (round(args.depth) - 0.5)
    layer.act.dense.bias.fill_(
        math.log(probability / (1 - probability)) if probability < 1 else 9.0
    )
    return round(1 - (missed / (weight * centred.square()).sum()).item(), 4)
