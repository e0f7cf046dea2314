"""The bare model: embeddings, encoder (reference loop or engine), pooler."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.albert.modeling_albert import AlbertEmbeddings, AlbertMLMHead
from transformers.utils import ModelOutput, logging

from albert_act_fast import engine, implementations, native
from albert_act_fast.configuration import AlbertActConfig
from albert_act_fast.inputs import ModelInputs, check_inputs
from albert_act_fast.outputs import AlbertActModelOutput, EncoderResult
from albert_act_fast.reference import AlbertActTransformer

logger = logging.get_logger(__name__)

# Without these a model would be random; a head that is missing is fine (it is to be trained).
_ESSENTIAL = re.compile(r"^(albert\.)?(embeddings|encoder)\.")


class AlbertActEmbeddings(AlbertEmbeddings):
    """ALBERT's embeddings; without the position term where positions are relative."""

    def __init__(self, config: AlbertActConfig):
        super().__init__(config)
        self.position_embedding_type = config.position_embedding_type

    def forward(self, inputs: ModelInputs) -> Tensor:
        """[B, S, E]"""
        embeddings = inputs.inputs_embeds
        if embeddings is None:
            embeddings = self.word_embeddings(inputs.input_ids)
        embeddings = embeddings + self.token_type_embeddings(inputs.token_type_ids)
        if self.position_embedding_type == "absolute":
            embeddings = embeddings + self.position_embeddings(inputs.position_ids)
        return self.dropout(self.LayerNorm(embeddings))


class AlbertActPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of all ALBERT-ACT models."""

    config_class = AlbertActConfig
    base_model_prefix = "albert"
    supports_gradient_checkpointing = True
    _no_split_modules = ("AlbertActLayer",)
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

        Raises:
            ValueError: the checkpoint is of another architecture; the missing weights are named.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
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

    def _as_asked(self, output: ModelOutput, return_dict: bool | None) -> ModelOutput | tuple:
        """The output itself, or a plain tuple where the call or the configuration wants one."""
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()


class AlbertActModel(AlbertActPreTrainedModel):
    """The bare ALBERT-ACT encoder, a drop-in for the published `act.AlbertActModel`.

    In inference (`model.eval()` under `torch.no_grad()` or `inference_mode()`) the engine runs and
    computes running tokens only; in training, and where a call needs the dense loop (attentions,
    hidden states, head masks), the reference runs, with the same numbers. Training runs on the
    engine too where asked to: `config.implementation = "torch"`.
    """

    def __init__(self, config: AlbertActConfig, add_pooling_layer: bool = True):
        # A field may have been set since the configuration was made.
        config.validate_architecture()
        super().__init__(config)
        self.embeddings = AlbertActEmbeddings(config)
        self.encoder = AlbertActTransformer(config)
        self.pooler = (
            nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
        )
        self.pooler_activation = nn.Tanh() if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        implementation: str | None = None,
    ) -> AlbertActModelOutput | tuple:
        """
        Args:
            input_ids: [B, S] integer, ids of the vocabulary. Or
            inputs_embeds: [B, S, embedding_size], in place of the word embeddings.
            attention_mask: [B, S], 1 at tokens, 0 at padding, at any place; default all 1.
            token_type_ids: [B, S]; default all 0.
            position_ids: [B, S], [1, S] or [S]; default each token's column.
            head_mask: [heads] or [iterations, heads], multiplies the attention weights.
            output_attentions: also return the attention weights of every iteration.
            output_hidden_states: also return the state before and after every iteration.
            return_dict: False gives a plain tuple.
            implementation: overrides `config.implementation` and `use_implementation` for this
                call; see `albert_act_fast.implementations`.

        Raises:
            ValueError, TypeError: an argument is out of its range or shape, or the implementation
                asked for cannot do what the call needs; the message says which and why.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        given = input_ids if input_ids is not None else inputs_embeds
        needs_gradients = self._needs_gradients(inputs_embeds)
        choice = implementations.choose(
            implementation,
            self.config.implementation,
            device=self.device if given is None else given.device,
            dtype=self.embeddings.word_embeddings.weight.dtype,
            needs_gradients=needs_gradients,
            needs_reference=self._needs_reference(
                head_mask, output_attentions, output_hidden_states
            ),
            needs_torch=self._needs_torch(),
        )
        arguments = (
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
        )
        self._check_quantization(choice)
        if choice.name == "reference":
            self._say_why_slow(choice)
            result = self._run_reference(arguments, output_hidden_states, output_attentions)
        else:
            result = self._run_engine(arguments, choice.name, bool(needs_gradients))
        hidden = result.last_hidden_state
        pooled = None
        if self.pooler is not None:
            pooled = self.pooler_activation(self.pooler(hidden[:, 0]))
        output = AlbertActModelOutput(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=result.hidden_states,
            attentions=result.attentions,
            updates=result.n_updates[:, None, None, :],
            n_updates=result.n_updates,
            remainders=result.remainders,
            ponder_cost=result.n_updates + result.remainders,
        )
        return self._as_asked(output, return_dict)

    def explain_implementation(self, implementation: str | None = None) -> str:
        """Which implementation computes an inference call on the model's device, and why; of
        `triton` also how, and where it has to fall back on a slower way, the reason.

        Args:
            implementation: as in a call.

        Raises:
            ValueError: as in a call.
        """
        choice = implementations.choose(
            implementation,
            self.config.implementation,
            device=self.device,
            dtype=self.dtype,
            needs_torch=self._needs_torch(),
        )
        explanation = f"{choice.name} ({choice.reason})"
        if choice.name == "triton":
            explanation += f": {engine.gpu.explain(self.encoder.albert_layer)}"
        return explanation

    def _needs_gradients(self, inputs_embeds: Tensor | None) -> list[str]:
        reasons = []
        if self.training:
            reasons.append("the model is in training mode (call model.eval())")
        if torch.is_grad_enabled() and (
            (inputs_embeds is not None and inputs_embeds.requires_grad)
            or any(p.requires_grad for p in self.parameters())
        ):
            reasons.append("gradients are enabled (wrap the call in torch.no_grad())")
        return reasons

    def _needs_reference(self, head_mask, output_attentions, output_hidden_states) -> list[str]:
        reasons = []
        if head_mask is not None:
            reasons.append("head_mask was given")
        if output_attentions:
            reasons.append("output_attentions was asked for")
        if output_hidden_states:
            reasons.append("output_hidden_states was asked for")
        if self.training and self.encoder.albert_layer.gradient_checkpointing:
            reasons.append("gradient checkpointing is on")
        return reasons

    def _needs_torch(self) -> list[str]:
        # Every call asks; `parameters()` would spend ten times as long on their names.
        dtypes = {p.dtype for m in _modules(self) for p in m._parameters.values() if p is not None}
        if len(dtypes) <= 1:
            return []
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        return [f"the model's weights have several dtypes ({names})"]

    def _check_quantization(self, choice: implementations.Choice) -> None:
        """Full precision instead of int8 only where it was asked for by name."""
        if self.config.quantization is None or choice.name == "cpp":
            return
        if choice.name != "reference" or choice.reason != "asked for":
            raise ValueError(
                f"quantization: the model is set to {self.config.quantization!r}, which only "
                f"implementation 'cpp' computes; got {choice.name!r} ({choice.reason}). Call "
                "model.quantize(None), or ask for implementation='reference' for full precision."
            )

    @torch.compiler.disable
    def _say_why_slow(self, choice: implementations.Choice) -> None:
        """The dense loop in eval mode is mostly a forgotten `torch.no_grad()`: say so once."""
        if not self.training and choice.reason.startswith("gradients"):
            logger.warning_once(
                "AlbertActModel computes every token at every iteration: "
                f"{choice.reason} to drop halted tokens."
            )

    def _run_reference(self, arguments, output_hidden_states, output_attentions) -> EncoderResult:
        inputs = self._check(arguments)
        embedded = self.embeddings(inputs)
        return self.encoder(
            embedded,
            inputs.attention_mask,
            None if inputs.head_mask is None else inputs.head_mask.to(embedded),
            output_hidden_states,
            output_attentions,
        )

    # Packing and the loop depend on the data, so torch.compile leaves them as they are and
    # compiles what stands around them.
    @torch.compiler.disable
    def _run_engine(self, arguments, implementation: str, with_gradients: bool) -> EncoderResult:
        arguments = (self.embeddings, self.encoder, self._check(arguments))
        rule = {
            "threshold": self.config.halting_threshold,
            "max_iterations": self.config.num_hidden_layers,
        }
        if with_gradients:
            return engine.encode_with_gradients(*arguments, **rule)
        # Compiled operators take rows and weights of one dtype; autocast would mix them.
        device = arguments[2].attention_mask.device.type
        mixed = implementation != "torch" and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if mixed else contextlib.nullcontext():
            return engine.encode(
                *arguments,
                **rule,
                implementation=implementation,
                int8=self.config.quantization == "int8",
            )

    @torch.compiler.disable
    def _check(self, arguments) -> ModelInputs:
        return check_inputs(self.config, self.embeddings, *arguments)


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _modules(child)
