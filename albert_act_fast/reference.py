"""The reference: ALBERT-ACT as plain PyTorch, one dense loop, differentiable.

"How Many Layers and Why? An Analysis of the Model Depth in Transformers" (Simoulin & Crabbé,
2021), halting by "Adaptive Computation Time" (Graves 2016, arXiv 1603.08983). Every iteration
computes every token; this file is what all faster implementations are tested against, what
training runs on, and it knows nothing of them.

Shapes: B sequences, S tokens (padded), H hidden size, A heads, D = H / A head size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from albert_act_fast.configuration import POSITION_TYPES, AlbertActConfig, HaltingLimits
from albert_act_fast.modules import HaltingLinear, halting_logit
from albert_act_fast.outputs import EncoderResult


class HaltingState(NamedTuple):
    """What the halting rule remembers of each token, [B, S] each, float32.

    (float64 where the hidden states are float64, so that gradients can be checked.)
    """

    accumulated_probability: Tensor
    remainder: Tensor
    n_updates: Tensor

    @staticmethod
    def start(hidden: Tensor) -> HaltingState:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        zeros = torch.zeros(hidden.shape[:-1], dtype=dtype, device=hidden.device)
        return HaltingState(zeros, zeros, zeros)


def asking(state: HaltingState, limits: HaltingLimits) -> Tensor:
    """bool, the state's shape: tokens that ask for another iteration. One whose accumulated
    probability equals the threshold does not, yet takes part in it when another token asks."""
    return state.accumulated_probability < limits.threshold


def halting_rule(
    p: Tensor, state: HaltingState, limits: HaltingLimits
) -> tuple[Tensor, Tensor, HaltingState]:
    """One application of Graves' halting rule (eq. 5 to 8 there).

    Args:
        p: halting probability of this iteration, the state's shape and dtype.
        state: the halting state before this iteration.
        limits: `HaltingLimits`, or whatever has those of its fields that the rule is told.

    Returns:
        running (bool): tokens that this iteration updates;
        weight: p for a token that goes on, its remainder where it halts now, 0 elsewhere;
        the halting state after this iteration.

    A token that never passes the threshold gets no remainder. A NaN probability makes the token's
    accumulated probability NaN, which is never below 1 again: the token freezes (as NaN) and
    cannot keep the loop going.
    """
    hp, threshold = state.accumulated_probability, limits.threshold
    running = hp < 1
    reached = hp + p
    halts_now = running & (reached > threshold)
    still = running & (reached <= threshold)
    weight = torch.where(halts_now, 1 - hp, torch.where(running, p, torch.zeros_like(p)))
    return (
        running,
        weight,
        HaltingState(
            torch.where(halts_now, torch.ones_like(hp), torch.where(running, reached, hp)),
            torch.where(halts_now, 1 - hp, state.remainder),
            state.n_updates + (still | halts_now),
        ),
    )


class AlbertActAttention(nn.Module):
    """Multi-head self-attention without residual, over all tokens that are not padding."""

    def __init__(self, config: AlbertActConfig):
        super().__init__()
        hidden_size = config.hidden_size
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = hidden_size // config.num_attention_heads
        self.position_embedding_type = config.position_embedding_type
        self.max_position_embeddings = config.max_position_embeddings
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.output_dropout = nn.Dropout(config.hidden_dropout_prob)
        if self.relative:
            self.distance_embedding = nn.Embedding(
                2 * config.max_position_embeddings - 1, self.attention_head_size
            )

    def forward(
        self, hidden: Tensor, attention_mask: Tensor, head_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the projected context [B, S, H] and the attention weights [B, A, S, S]."""

        def split_heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

        query = split_heads(self.query(hidden))
        key = split_heads(self.key(hidden))
        value = split_heads(self.value(hidden))
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.attention_head_size)
        scores = scores + self.relative_scores(query, key)
        scores = scores.masked_fill(
            ~attention_mask[:, None, None, :], torch.finfo(scores.dtype).min
        )
        weights = self.attention_dropout(scores.softmax(-1))
        if head_mask is not None:
            weights = weights * head_mask
        context = (weights @ value).transpose(1, 2).flatten(2)
        return self.output_dropout(self.dense(context)), weights

    @property
    def relative(self) -> bool:
        """Whether scores depend on the distance between tokens."""
        return POSITION_TYPES[self.position_embedding_type].relative

    @property
    def key_distances(self) -> bool:
        """Whether keys, too, are multiplied by the distance's embedding."""
        return POSITION_TYPES[self.position_embedding_type].key_distances

    def relative_scores(self, query: Tensor, key: Tensor) -> Tensor | float:
        """Shaw et al. 2018 ("relative_key") and Huang et al. 2020, method 4; added unscaled."""
        if not self.relative:
            return 0.0
        position = torch.arange(query.size(-2), device=query.device)
        distance = position[:, None] - position[None, :] + self.max_position_embeddings - 1
        embedding = self.distance_embedding(distance).to(query.dtype)
        scores = torch.einsum("bald,lrd->balr", query, embedding)
        if self.key_distances:
            scores = scores + torch.einsum("bard,lrd->balr", key, embedding)
        return scores


class HaltingUnit(nn.Module):
    """The scalar halting probability of each token, always computed in float32 (or float64)."""

    def __init__(self, config: AlbertActConfig):
        super().__init__()
        self.dense = HaltingLinear(config.hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return halting_logit(self.dense, hidden).squeeze(-1).sigmoid()


class AlbertActLayer(GradientCheckpointingLayer):
    """The one weight-tied layer and the halting of one iteration."""

    def __init__(self, config: AlbertActConfig):
        super().__init__()
        self.config = config
        self.attention = AlbertActAttention(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.ffn_output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.full_layer_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.act = HaltingUnit(config)

    def forward(
        self,
        hidden: Tensor,
        accumulated_probability: Tensor,
        remainder: Tensor,
        n_updates: Tensor,
        attention_mask: Tensor,
        head_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """One iteration: the mixed state [B, S, H], the three tensors of the halting state, and
        the attention weights [B, A, S, S].

        All in and out as single tensors, because gradient checkpointing follows gradients through
        nothing else.
        """
        state = HaltingState(accumulated_probability, remainder, n_updates)
        candidate, attention_weights = self.block(hidden, attention_mask, head_mask)
        running, weight, state = halting_rule(
            self.act(candidate), state, self.config.halting_limits
        )
        w = weight.unsqueeze(-1)
        mixed = (w * candidate + (1 - w) * hidden).to(hidden.dtype)
        # Where nothing runs w is 0 and `mixed` equals `hidden`, unless the candidate is not finite.
        return torch.where(running.unsqueeze(-1), mixed, hidden), *state, attention_weights

    def block(
        self, hidden: Tensor, attention_mask: Tensor, head_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """ALBERT's layer, without halting: the candidate states and the attention weights."""
        attended, attention_weights = self.attention(hidden, attention_mask, head_mask)
        ffn_input = self.LayerNorm(attended + hidden)
        ffn_output = self.dropout(self.ffn_output(self.activation(self.ffn(ffn_input))))
        return self.full_layer_layer_norm(ffn_output + ffn_input), attention_weights


class AlbertActTransformer(nn.Module):
    """Maps the embeddings to the hidden size and iterates the layer until every token halted."""

    def __init__(self, config: AlbertActConfig):
        super().__init__()
        self.config = config
        self.embedding_hidden_mapping_in = nn.Linear(config.embedding_size, config.hidden_size)
        self.albert_layer = AlbertActLayer(config)

    def forward(
        self,
        embedding_output: Tensor,
        attention_mask: Tensor,
        head_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderResult:
        """
        Args:
            embedding_output: [B, S, embedding_size].
            attention_mask: bool [B, S], True at tokens.
            head_mask: [num_hidden_layers, 1, A, 1, 1] multiplies the attention weights of each
                iteration, or None.
        """
        token = attention_mask.unsqueeze(-1)
        # Whatever stands at padding (NaN included) must not reach a token through 0 * value.
        hidden = self.embedding_hidden_mapping_in(embedding_output).masked_fill(~token, 0)
        state = HaltingState.start(hidden)
        limits = self.config.halting_limits
        all_hidden = [hidden]
        all_attentions = []
        for iteration in range(limits.max_iterations):
            # Padding never asks.
            if not (asking(state, limits) & attention_mask).any():
                break
            hidden, *state, attention_weights = self.albert_layer(
                hidden, *state, attention_mask, None if head_mask is None else head_mask[iteration]
            )
            state = HaltingState(*state)
            if output_hidden_states:
                all_hidden.append(hidden.masked_fill(~token, 0))
            if output_attentions:
                all_attentions.append(attention_weights)
        return EncoderResult(
            hidden.masked_fill(~token, 0),
            state.n_updates.masked_fill(~attention_mask, 0),
            state.remainder.masked_fill(~attention_mask, 0),
            tuple(all_hidden) if output_hidden_states else None,
            tuple(all_attentions) if output_attentions else None,
        )
