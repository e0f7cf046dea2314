"""A model as one graph that does not depend on the data, for torch.export, ONNX, torch.jit.trace
and OpenVINO: a fixed number of iterations over all tokens.

Exact: the weight of a halted token is 0, so that iterations beyond its own leave it as it is, and
an iteration that the reference loop would not have begun is given to no token. What it costs is
the whole loop for every batch; where dropping halted tokens pays, call the model instead.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from albert_act_fast.inputs import ModelInputs
from albert_act_fast.reference import HaltingState, asking, halting_rule

_DEPTH = ("n_updates", "remainders")


class ExportableModel(nn.Module):
    """The model's own modules, shared, in a loop of `num_hidden_layers` iterations.

    Attributes:
        input_names: input_ids, attention_mask, token_type_ids; int64 [B, S] each.
        output_names: of the tuple that a call returns: the head's fields, or last_hidden_state and
            pooler_output; then n_updates and remainders, float32 [B, S]. All as the model's own.

    Inputs are not checked: a graph cannot. Ids out of range are the runtime's to refuse, and a
    graph is made for sequences of at most `max_position_embeddings` tokens.
    """

    input_names = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self, model: nn.Module):
        """
        Args:
            model: one of this package's, in eval mode.

        Raises:
            ValueError: it cannot be a graph, and why.
        """
        super().__init__()
        _refuse(model)
        bare = getattr(model, "albert", model)
        self.model = model
        self.config = model.config
        self._limits = model.config.halting_limits
        if bare is model:
            self.output_names = ("last_hidden_state", "pooler_output", *_DEPTH)
            if bare.pooler is None:
                self.output_names = ("last_hidden_state", *_DEPTH)
        else:
            self.output_names = (*_HEADS[type(model).__name__], *_DEPTH)
        self.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, ...]:
        """
        Args:
            input_ids, token_type_ids: int64 [B, S].
            attention_mask: int64 [B, S], 1 at tokens, 0 at padding.
        """
        bare = getattr(self.model, "albert", self.model)
        encoder, mask = bare.encoder, attention_mask.bool()
        positions = torch.arange(input_ids.size(1), device=input_ids.device)
        embedded = bare.embeddings(
            ModelInputs(input_ids, None, mask, token_type_ids, positions.expand_as(input_ids), None)
        )
        token = mask.unsqueeze(-1)
        hidden = encoder.embedding_hidden_mapping_in(embedded).masked_fill(~token, 0)
        state = HaltingState.start(hidden)
        layer = encoder.albert_layer
        for _ in range(self._limits.max_iterations):
            # As the reference loop: it ends for all when no token asks for another iteration.
            goes_on = (asking(state, self._limits) & mask).any()
            candidate, _ = layer.block(hidden, mask)
            running, weight, after = halting_rule(layer.act(candidate), state, self._limits)
            w = weight.unsqueeze(-1)
            mixed = (w * candidate + (1 - w) * hidden).to(hidden.dtype)
            hidden = torch.where((running & goes_on).unsqueeze(-1), mixed, hidden)
            state = HaltingState(
                *(torch.where(goes_on, new, old) for new, old in zip(after, state, strict=True))
            )
        hidden = hidden.masked_fill(~token, 0)
        depth = [one.masked_fill(~mask, 0) for one in (state.n_updates, state.remainder)]
        pooled = None
        if bare.pooler is not None:
            pooled = bare.pooler_activation(bare.pooler(hidden[:, 0]))
        if bare is self.model:
            return (hidden, *(() if pooled is None else (pooled,)), *depth)
        fields = self.model._apply_head(
            SimpleNamespace(last_hidden_state=hidden, pooler_output=pooled)
        )
        return (*fields.values(), *depth)

    def example_inputs(self, batch: int = 2, length: int = 8) -> tuple[Tensor, ...]:
        """Inputs to record a graph with."""
        shape, device = (batch, length), self.model.device
        ids = torch.arange(batch * length, device=device).reshape(shape) % self.config.vocab_size
        mask = torch.ones(shape, dtype=torch.int64, device=device)
        mask[-1, length // 2 :] = 0
        return ids, mask, torch.zeros_like(ids)

    def dynamic_shapes(self) -> tuple[dict, ...]:
        """For `torch.export.export` and `torch.onnx.export`: any batch, any length that the model
        has positions for."""
        batch = torch.export.Dim("batch", min=1, max=2**20)
        length = torch.export.Dim("length", min=2, max=self.config.max_position_embeddings)
        return tuple({0: batch, 1: length} for _ in self.input_names)


_HEADS = {
    "AlbertActForPreTraining": ("prediction_logits", "sop_logits"),
    "AlbertActForMaskedLM": ("logits",),
    "AlbertActForSequenceClassification": ("logits",),
    "AlbertActForTokenClassification": ("logits",),
    "AlbertActForQuestionAnswering": ("start_logits", "end_logits"),
}


def _refuse(model: nn.Module) -> None:
    name = type(model).__name__
    bare = getattr(model, "albert", model)
    if bare is not model and name not in _HEADS:
        raise ValueError(
            f"model: {name} has no graph, expected a bare model or one of {', '.join(_HEADS)} "
            "(the choices of AlbertActForMultipleChoice are sequences of one batch: export its "
            "`albert` and apply `classifier` to the pooled output)."
        )
    if model.training:
        raise ValueError("model: it is in training mode, expected eval mode (call model.eval()).")
    if model.config.quantization is not None:
        raise ValueError(
            f"quantization: got {model.config.quantization!r}, which only the engine computes; "
            "call model.quantize(None) first, and quantise the graph with its runtime's own tools."
        )
    reason = bare._inspect().reference_only
    if reason is not None:
        raise ValueError(f"model: it cannot be exported as it is, because {reason}.")
