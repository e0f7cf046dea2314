"""One call of a model, as its engines see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from albert_act_fast.engine.layer import Inspection, LayerWeights, inspect, layer_weights


@dataclass(frozen=True)
class Call:
    """Which modules are to be computed, and how.

    Attributes:
        embeddings, encoder: a base model's.
        inspection: what their modules are now.
        implementation: whose operators are to run.
        gradients: autograd is to follow the call, or the model is in training mode.
        int8: products with weights and activations in int8.
    """

    embeddings: nn.Module
    encoder: nn.Module
    inspection: Inspection
    implementation: str
    gradients: bool = False
    int8: bool = False

    @property
    def layer(self) -> nn.Module:
        return self.encoder.albert_layer

    @cached_property
    def layer_weights(self) -> LayerWeights:
        """Where all of the layer's weights may be read."""
        return layer_weights(self.layer)

    def is_called(self, path: str) -> bool:
        """Whether the layer's module has to be called; path: from the layer on."""
        return f"encoder.albert_layer.{path}" in self.inspection.called

    def why_not_read_layer(self) -> str | None:
        """None where all of the layer's weights may be read, else the reason."""
        return self.inspection.why_not_read("encoder.albert_layer.")


def call_of(model: nn.Module, implementation: str, **options) -> Call:
    """A call of a base model (`AlbertActModel`) by one implementation; options: fields of `Call`.

    Raises:
        ValueError: none of the engines can compute the model; the reason.
    """
    inspection = inspect(model.embeddings, model.encoder, model.containers)
    if inspection.reference_only is not None:
        raise ValueError(f"model: {inspection.reference_only}: only 'reference' computes it.")
    return Call(model.embeddings, model.encoder, inspection, implementation, **options)
