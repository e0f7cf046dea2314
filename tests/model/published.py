"""A model with the published `act.AlbertActModel`'s structure: names, shapes, keys of its weights.

Its forward is a dense loop of its own, written from the paper, so that what `accelerate` computes
is checked against something that shares no code with the package.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from support import models as builders
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AlbertConfig, set_seed

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class Output(NamedTuple):
    last_hidden_state: Tensor
    pooler_output: Tensor
    updates: Tensor


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])
        self.position_embedding_type = config.position_embedding_type

    def forward(self, input_ids, token_type_ids):
        rows = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        if self.position_embedding_type == "absolute":
            rows = rows + self.position_embeddings(self.position_ids[:, : input_ids.size(1)])
        return self.dropout(self.LayerNorm(rows))


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = width // config.num_attention_heads
        self.query, self.key, self.value, self.dense = (nn.Linear(width, width) for _ in range(4))
        self.position_embedding_type = config.position_embedding_type
        self.max_position_embeddings = config.max_position_embeddings
        if self.position_embedding_type != "absolute":
            self.distance_embedding = nn.Embedding(
                2 * config.max_position_embeddings - 1, self.attention_head_size
            )

    def forward(self, hidden, bias):
        size, context = self.attention_head_size, []
        places = torch.arange(hidden.size(1))
        distance = places[:, None] - places[None, :] + self.max_position_embeddings - 1
        queries, keys, values = self.query(hidden), self.key(hidden), self.value(hidden)
        for head in range(self.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            query, key, value = queries[..., part], keys[..., part], values[..., part]
            scores = query @ key.transpose(1, 2) / math.sqrt(size)
            if self.position_embedding_type != "absolute":
                table = self.distance_embedding(distance)  # [query, key, size]
                scores = scores + (query[:, :, None] * table).sum(-1)
                if self.position_embedding_type == "relative_key_query":
                    scores = scores + (key[:, None] * table).sum(-1)
            context.append((scores + bias).softmax(-1) @ value)
        return self.dense(torch.cat(context, -1))


class Halting(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, 1)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.act = Halting(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.hidden_act = config.hidden_act
        self.full_layer_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def activation(self, x):
        return ACTIVATIONS[self.hidden_act](x)

    def forward(self, hidden, bias):
        attended = self.LayerNorm(self.attention(hidden, bias) + hidden)
        inner = self.ffn_output(self.activation(self.ffn(attended)))
        return self.full_layer_layer_norm(inner + attended)


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding_hidden_mapping_in = nn.Linear(config.embedding_size, config.hidden_size)
        self.albert_layer = Layer(config)

    def forward(self, rows, bias):
        hidden = self.embedding_hidden_mapping_in(rows)
        accumulated, n_updates = torch.zeros(2, *rows.shape[:2])
        limit = torch.tensor(1 - self.config.act_epsilon)
        while ((accumulated < limit) & (n_updates < self.config.num_hidden_layers)).any():
            block = self.albert_layer(hidden, bias)
            p = torch.sigmoid(self.albert_layer.act.dense(block)).squeeze(-1).float()
            running = accumulated < 1
            halts = running & (accumulated + p > limit)
            weight = torch.where(halts, 1 - accumulated, p) * running
            accumulated = accumulated + weight
            n_updates = n_updates + running
            weight = weight.to(hidden.dtype)[..., None]
            hidden = weight * block + (1 - weight) * hidden
        return hidden, n_updates


class PublishedModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.pooler_activation = nn.Tanh()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        rows = self.embeddings(input_ids, token_type_ids)
        bias = (1.0 - attention_mask[:, None, :].to(rows.dtype)) * -10000.0
        hidden, n_updates = self.encoder(rows, bias)
        pooled = self.pooler_activation(self.pooler(hidden[:, 0]))
        return Output(hidden, pooled, n_updates[:, None, None, :])


class PublishedClassifier(nn.Module):
    """A task model as the published code builds them: it holds a base model as `albert`."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.albert = PublishedModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        outputs = self.albert(
            input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return self.classifier(self.dropout(outputs[1]))


def config(**overrides) -> AlbertConfig:
    """The published configuration's fields: ALBERT's, and the halting rule's."""
    return AlbertConfig(
        **{
            "vocab_size": 40,
            "embedding_size": 8,
            "hidden_size": 16,
            "num_attention_heads": 4,
            "intermediate_size": 24,
            "num_hidden_layers": 8,
            "max_position_embeddings": 20,
            "hidden_act": "gelu",
            "act_epsilon": 0.01,
            "position_embedding_type": "absolute",
        }
        | overrides
    )


def model(cls=PublishedModel, *, seed: int = 1, **overrides) -> nn.Module:
    """A model in eval mode with random weights whose tokens halt at different iterations."""
    set_seed(seed)
    model = cls(config(**overrides)).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.3)
        if "LayerNorm.weight" in name or "layer_norm.weight" in name:
            nn.init.ones_(parameter)
    return builders.spread_depths(model)
