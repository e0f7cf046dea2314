"""`TFAlbertActModel`: the published TensorFlow class's call, computed by the engine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import torch
from transformers.utils import ModelOutput

from albert_act_fast.configuration import AlbertActConfig
from albert_act_fast.modeling import AlbertActModel
from albert_act_fast.tf_weights import WEIGHTS_NAME, write_h5

_INPUTS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "head_mask",
    "inputs_embeds",
)
# What a graph holds: lists of tensors, one an iteration, are of no fixed length.
_OUTPUTS = (
    "last_hidden_state",
    "pooler_output",
    "updates",
    "n_updates",
    "remainders",
    "ponder_cost",
)


@dataclass
class TFAlbertActModelOutput(ModelOutput):
    """As `AlbertActModelOutput`, with tf tensors; the published class's fields come first."""

    last_hidden_state: tf.Tensor | None = None
    pooler_output: tf.Tensor | None = None
    hidden_states: tuple | None = None
    attentions: tuple | None = None
    updates: tf.Tensor | None = None
    n_updates: tf.Tensor | None = None
    remainders: tf.Tensor | None = None
    ponder_cost: tf.Tensor | None = None


class TFAlbertActModel:
    """The bare encoder for TensorFlow code, a drop-in for calls of the published class.

    Takes and returns tf tensors, in eager mode handed over without a copy (DLPack), inside
    `tf.function` and on Keras' symbolic inputs through `tf.py_function`. PyTorch computes. For
    inference alone: it has no tf variables, no gradient passes through it, and `training=True` is
    refused; train `AlbertActModel`.
    """

    config_class = AlbertActConfig
    base_model_prefix = "albert"

    def __init__(self, config: AlbertActConfig | AlbertActModel):
        """
        Args:
            config: of a model with random weights; or a model, which is used as it is.
        """
        model = config if isinstance(config, AlbertActModel) else AlbertActModel(config)
        self.model = model.eval()
        self.config = model.config
        self._layer = None

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *, from_pt: bool | None = None, **kwargs):
        """
        Args:
            name: a folder or a hub name, with our weights, PyTorch's, or `tf_model.h5`.
            from_pt: True for the former two, False for the last; None for what is there.
            kwargs: as `AlbertActModel.from_pretrained`.

        Raises:
            OSError, ValueError: as there.
        """
        if from_pt is None:
            there = [os.path.isfile(os.path.join(name, file)) for file in _PYTORCH_FILES]
            from_pt = any(there) or not os.path.isfile(os.path.join(name, WEIGHTS_NAME))
        return cls(AlbertActModel.from_pretrained(name, from_tf=not from_pt, **kwargs))

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes config.json and `tf_model.h5`, as the published class does."""
        os.makedirs(folder, exist_ok=True)
        self.config.save_pretrained(folder)
        write_h5(self.model, os.path.join(folder, WEIGHTS_NAME))

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
        implementation: str | None = None,
    ) -> TFAlbertActModelOutput | tuple:
        """
        Args:
            input_ids: [B, S] integers; or all inputs as a dict, or as a list in this order.
            attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            output_attentions, output_hidden_states, return_dict, implementation: as
                `AlbertActModel`; each a tf tensor, or what makes one.
            training: False.

        Raises:
            ValueError, TypeError: as `AlbertActModel`; `training`, or in a graph attentions or
                hidden states, are asked for.
        """
        if training:
            raise ValueError(
                "training: got True, expected False: TFAlbertActModel is for inference; train "
                "AlbertActModel, in PyTorch."
            )
        given = _named(
            input_ids,
            dict(
                zip(
                    _INPUTS[1:],
                    (attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds),
                    strict=True,
                )
            ),
        )
        tensors = {name: _tensor(value) for name, value in given.items() if value is not None}
        options = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "implementation": implementation,
        }
        if any(tf.keras.backend.is_keras_tensor(value) for value in tensors.values()):
            output = self._keras_layer(options)(tensors)
        elif all(hasattr(value, "numpy") for value in tensors.values()):
            output = self._eager(tensors, options)
        else:
            output = self._in_graph(tensors, options)
        output = TFAlbertActModelOutput(**output)
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()

    call = __call__

    def _run(self, tensors: dict, options: dict) -> dict:
        """Of eager tensors, PyTorch's own output."""
        inputs = {name: _to_torch(value) for name, value in tensors.items()}
        device = self.model.device
        with torch.no_grad():
            return self.model(
                **{name: value.to(device) for name, value in inputs.items()},
                **options,
                return_dict=True,
            )

    def _eager(self, tensors: dict, options: dict) -> dict:
        def converted(value):
            if isinstance(value, tuple):
                return tuple(converted(one) for one in value)
            return _to_tensorflow(value)

        out = self._run(tensors, options)
        return {name: converted(value) for name, value in out.items() if value is not None}

    def _in_graph(self, tensors: dict, options: dict) -> dict:
        config = self.config
        for name in ("output_attentions", "output_hidden_states"):
            wanted = options[name] if options[name] is not None else getattr(config, name)
            if wanted:
                raise ValueError(
                    f"{name}: got True inside tf.function, where only tensors of known rank can be "
                    "returned; expected a call in eager mode."
                )
        names = [n for n in _OUTPUTS if n != "pooler_output" or self.model.pooler is not None]
        keys = list(tensors)

        def run(*values):
            out = self._run(dict(zip(keys, values, strict=True)), options)
            return [_to_tensorflow(out[name].float()) for name in names]

        found = tf.py_function(run, list(tensors.values()), [tf.float32] * len(names))
        source = tensors.get("input_ids", tensors.get("inputs_embeds"))
        batch, length = source.shape[0], source.shape[1]
        shapes = {
            "last_hidden_state": [batch, length, config.hidden_size],
            "pooler_output": [batch, config.hidden_size],
            "updates": [batch, 1, 1, length],
        }
        for name, value in zip(names, found, strict=True):
            value.set_shape(shapes.get(name, [batch, length]))
        return dict(zip(names, found, strict=True))

    def _keras_layer(self, options: dict):
        outer = self

        class Encoder(tf.keras.layers.Layer):
            def call(self, tensors):
                return outer._in_graph(tensors, options)

        if self._layer is None or self._layer[0] != options:
            self._layer = (options, Encoder(name="albert_act", dtype="float32"))
        return self._layer[1]


_PYTORCH_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def _named(first: Any, others: dict) -> dict:
    """The inputs by name, however they were given."""
    if isinstance(first, (list, tuple)) and any(hasattr(one, "shape") for one in first):
        if len(first) > len(_INPUTS):
            raise ValueError(
                f"input_ids: got {len(first)} inputs, expected at most {len(_INPUTS)}."
            )
        first = dict(zip(_INPUTS, first, strict=False))
    if hasattr(first, "keys"):
        unknown = sorted(set(first) - set(_INPUTS))
        if unknown:
            raise TypeError(f"{unknown[0]}: TFAlbertActModel has no such argument.")
        return {**others, **{name: value for name, value in first.items() if value is not None}}
    return {"input_ids": first, **others}


def _tensor(value: Any):
    if tf.keras.backend.is_keras_tensor(value):
        return value
    return tf.convert_to_tensor(value)


def _to_torch(value: tf.Tensor) -> torch.Tensor:
    if value.dtype == tf.bool:  # DLPack has no name for it that both know
        value = tf.cast(value, tf.int32)
    return torch.from_dlpack(tf.experimental.dlpack.to_dlpack(value))


def _to_tensorflow(value: torch.Tensor) -> tf.Tensor:
    return tf.experimental.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(value.contiguous()))
