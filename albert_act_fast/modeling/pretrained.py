"""What all models share: embeddings, initial weights, checkpoints, quantization."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.albert.modeling_albert import AlbertEmbeddings, AlbertMLMHead
from transformers.utils import ModelOutput, logging

from albert_act_fast import native
from albert_act_fast.configuration import POSITION_TYPES, AlbertActConfig
from albert_act_fast.inputs import ModelInputs
from albert_act_fast.tf_weights import weights_of_tensorflow

logger = logging.get_logger(__name__)

# Without these a model would be random; a head that is missing is fine (it is to be trained).
_ESSENTIAL = re.compile(r"^(albert\.)?(embeddings|encoder)\.")


class AlbertActEmbeddings(AlbertEmbeddings):
    """ALBERT's embeddings; without the position term where positions are relative."""

    def __init__(self, config: AlbertActConfig):
        super().__init__(config)
        self.position_embedding_type = config.position_embedding_type
        if not self.has_positions:
            # Checkpoints have it, no result depends on it: nobody is to wait for its gradient.
            self.position_embeddings.requires_grad_(False)

    @property
    def has_positions(self) -> bool:
        """Whether each token's position is added, not only a term of the scores."""
        return POSITION_TYPES[self.position_embedding_type].embedded

    def forward(self, inputs: ModelInputs) -> Tensor:
        """[B, S, E]"""
        embeddings = inputs.inputs_embeds
        if embeddings is None:
            embeddings = self.word_embeddings(inputs.input_ids)
        embeddings = embeddings + self.token_type_embeddings(inputs.token_type_ids)
        if self.has_positions:
            embeddings = embeddings + self.position_embeddings(inputs.position_ids)
        return self.dropout(self.LayerNorm(embeddings))


class AlbertActPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of all ALBERT-ACT models."""

    config_class = AlbertActConfig
    base_model_prefix = "albert"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("AlbertActLayer",)
    # The loss is a mean over the batch, which the Trainer divides by its accumulation steps.
    accepts_loss_kwargs = False
    # In checkpoints written by older versions of transformers.
    _keys_to_ignore_on_load_unexpected = (r"position_ids$", r"token_type_ids$")

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, AlbertEmbeddings):
            positions = torch.arange(module.position_ids.size(1), device=module.position_ids.device)
            module.position_ids.copy_(positions.unsqueeze(0))
            module.token_type_ids.zero_()
        elif isinstance(module, AlbertMLMHead):
            module.bias.zero_()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As transformers' `from_pretrained`, but a checkpoint without the weights of the
        embeddings or of the encoder is an error, not a model with random ones.

        `from_tf=True` reads the folder's `tf_model.h5`, as the published TensorFlow class wrote it.

        Raises:
            ValueError: the checkpoint is of another architecture; the missing weights are named.
            ImportError: with `from_tf`, h5py is not installed.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        source = pretrained_model_name_or_path
        if kwargs.pop("from_tf", False):
            kwargs |= weights_of_tensorflow(cls, source, kwargs)
            source = None
        model, info = super().from_pretrained(
            source, *model_args, output_loading_info=True, **kwargs
        )
        missing = sorted(k for k in info["missing_keys"] if _ESSENTIAL.search(k))
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path}: not an ALBERT-ACT checkpoint; "
                f"{len(missing)} weights of the embeddings and the encoder are missing: "
                f"{', '.join(missing)}. Unexpected in it: "
                f"{', '.join(sorted(info['unexpected_keys'])) or 'nothing'}."
            )
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers' `save_pretrained`; the configuration that is written says whether there
        is a pooler, so that a model without one loads without one."""
        asked = self.config.add_pooling_layer
        self.config.add_pooling_layer = getattr(self.base_model, "pooler", None) is not None
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.add_pooling_layer = asked  # of other models made from it

    def _check_and_adjust_attn_implementation(self, attn_implementation, *args, **kwargs) -> str:
        """What computes attention is part of `implementation`; the names that change no number are
        accepted.

        Raises:
            ValueError: another kind of attention was asked for.
        """
        if attn_implementation not in (None, "eager", "sdpa"):
            raise ValueError(
                f"attn_implementation: got {attn_implementation!r}, expected 'eager', 'sdpa' or "
                "nothing: the engine has its own attention, chosen with `implementation` (see "
                "albert_act_fast.implementations)."
            )
        return attn_implementation or "eager"

    def quantize(self, quantization: str | None = "int8"):
        """Computes the encoder's products in int8 from now on, or with None no longer.

        Weights are rounded with one factor for each output, activations with one for each token,
        found anew in every product; sums, LayerNorm, softmax and the halting state stay float32.
        Weights are kept as they are, so that this can be undone, and are rounded again whenever
        they change.

        Raises:
            ValueError: `quantization` is neither None nor "int8", or the C++ operators are missing.
        """
        if quantization not in (None, "int8"):
            raise ValueError(f"quantization: got {quantization!r}, expected None or 'int8'.")
        if quantization is not None and native.why_no_cpp is not None:
            raise ValueError(f"quantization: int8 needs the C++ operators: {native.why_no_cpp}.")
        self.config.quantization = quantization
        return self

    def exportable(self) -> nn.Module:
        """The same model as one graph for torch.export, ONNX, torch.jit.trace and OpenVINO: see
        `albert_act_fast.export.ExportableModel`. It shares this model's weights.

        Raises:
            ValueError: the model cannot be exported, and why.
        """
        from albert_act_fast.export import ExportableModel

        return ExportableModel(self)

    def _as_asked(self, output: ModelOutput, return_dict: bool | None) -> ModelOutput | tuple:
        """The output itself, or a plain tuple where the call or the configuration wants one."""
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()
