"""From a padded batch to a padded result in five launches around the iterations, one of which the
host waits for.

    count_tokens      tokens of each sequence, and whether every id and mask is in its range
    (the host reads them, the only time it waits, and chooses buffers or a graph; offsets go back)
    pack_tokens       one row for each token, and the state before the first iteration
    embed_tokens
    linear            from the embedding's width to the hidden one
    ... the iterations ...
    unpack_rows       to the places of the padded batch

Not yet run on a GPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from albert_act_fast import ops
from albert_act_fast.engine.call import Call
from albert_act_fast.engine.gpu.buffers import Buffers
from albert_act_fast.engine.layer import embedding_weights
from albert_act_fast.inputs import ShapedInputs
from albert_act_fast.outputs import EncoderResult

_MAPPING = "encoder.embedding_hidden_mapping_in"


def why_not(call: Call) -> str | None:
    """None where the kernels may read what stands before the layer, else the reason."""
    for prefix in ("embeddings", _MAPPING):
        reason = call.inspection.why_not_read(prefix)
        if reason is not None:
            return reason
    dtype = call.layer_weights.query[0].dtype
    mapping = call.encoder.embedding_hidden_mapping_in
    weights = embedding_weights(call.embeddings)
    for tensor in (weights.word, weights.token_type, *weights.norm, mapping.weight, mapping.bias):
        if tensor is None or tensor.dtype != dtype:
            return f"what stands before the layer is not all {dtype}"
    return None


class PaddedBatch:
    """A padded batch, whose values have been looked at.

    rows, sequences: how many tokens, and how many sequences, there are.
    """

    def __init__(self, call: Call, inputs: ShapedInputs) -> None:
        """
        Raises:
            ValueError: naming the argument whose values are out of its range.
        """
        self._call, self._inputs = call, inputs
        self.sequences, self._tokens = inputs.shape
        given = (
            inputs.input_ids,
            inputs.attention_mask,
            inputs.token_type_ids,
            inputs.position_ids,
        )
        self._padded = [None if x is None else self._readable(x) for x in given]
        found = self._empty(2, self.sequences, dtype=torch.int32)
        sizes = [inputs.tables.get(name, (0, ""))[0] for name in _TABLES]
        _op("count_tokens")(*self._padded, self._tokens, *sizes, found)
        lengths, wrong = found.cpu().numpy()
        if wrong.any():
            inputs.checked()  # says what
            raise AssertionError(f"count_tokens found {wrong.sum()} places that are in their range")
        self._ends = lengths.cumsum(dtype=np.int64)
        self.rows = int(self._ends[-1])

    def _readable(self, x: Tensor) -> Tensor:
        """Where the ids or embeddings are, as kernels read it: they are told of rows' distance
        alone."""
        x = x.to(self._inputs.source.device)
        return x if x.stride(1) == 1 else x.contiguous()

    def _empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._inputs.source.device)

    def load(self, buffers: Buffers) -> None:
        """Rows, and the state before the first iteration."""
        # Sequences that the capacity has beyond the batch's are empty.
        offsets = np.full(buffers.key_offsets.numel(), self.rows)
        offsets[0], offsets[1 : self.sequences + 1] = 0, self._ends
        buffers.key_offsets.copy_(torch.from_numpy(offsets), non_blocking=True)
        self._row_of_place = self._empty(self.sequences * self._tokens, dtype=torch.int64)
        packed = [self._empty(self.rows, dtype=torch.int64) for _ in range(3)]
        _op("pack_tokens")(
            *self._padded,
            buffers.key_offsets,
            self._tokens,
            self._row_of_place,
            *packed,
            buffers.positions[: self.rows],
            buffers.accumulated_probability[0][: self.rows],
            buffers.token_index[0][: self.rows],
            *buffers.query_offsets,
        )
        given = self._inputs.inputs_embeds
        embedded = embedding_weights(self._call.embeddings).embed(
            "triton", tuple(packed), None if given is None else given.flatten(0, 1)
        )
        mapping = self._call.encoder.embedding_hidden_mapping_in
        _op("linear")(
            embedded,
            mapping.weight.detach().contiguous(),
            mapping.bias.detach(),
            None,
            None,
            "none",
            buffers.hidden[0][: self.rows],
        )

    def take(self, buffers: Buffers) -> EncoderResult:
        """The result, at the places of the padded batch."""
        places = self._row_of_place.numel()
        out = buffers.out.new_empty(places, buffers.out.size(1))
        n_updates, remainders = (self._empty(places, dtype=torch.float32) for _ in range(2))
        _op("unpack_rows")(
            buffers.out,
            buffers.n_updates,
            buffers.remainders,
            self._row_of_place,
            out,
            n_updates,
            remainders,
        )
        return self._shaped(out, n_updates, remainders)

    def nothing(self) -> EncoderResult:
        """The result of a batch that has no token."""
        places = self.sequences * self._tokens
        width = self._call.layer_weights.width
        zeros = self._empty(places, dtype=torch.float32).zero_()
        hidden = self._call.layer_weights.query[0].new_zeros(places, width)
        return self._shaped(hidden, zeros, zeros.clone())

    def _shaped(self, *parts: Tensor) -> EncoderResult:
        return EncoderResult(*(part.unflatten(0, self._inputs.shape) for part in parts))


_TABLES = ("input_ids", "token_type_ids", "position_ids")


def _op(name: str):
    return ops.implementation_of(name, "triton")
