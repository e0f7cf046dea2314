"""The bare model: embeddings, encoder (reference loop or engine), pooler."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from transformers.utils import logging

from albert_act_fast import engine, implementations
from albert_act_fast.configuration import AlbertActConfig
from albert_act_fast.engine.recompute import encode_with_recomputed_gradients
from albert_act_fast.inputs import (
    GivenInputs,
    ModelInputs,
    ShapedInputs,
    check_inputs,
    check_shapes,
    refuse_unknown,
)
from albert_act_fast.modeling.pretrained import AlbertActEmbeddings, AlbertActPreTrainedModel
from albert_act_fast.outputs import AlbertActModelOutput, EncoderResult
from albert_act_fast.reference import (
    AlbertActAttention,
    AlbertActLayer,
    AlbertActTransformer,
    HaltingUnit,
)

logger = logging.get_logger(__name__)


class AlbertActModel(AlbertActPreTrainedModel):
    """The bare ALBERT-ACT encoder, a drop-in for the published `act.AlbertActModel`.

    The engine runs and computes running tokens only: in inference on the fastest implementation
    there is, in training on `torch`, which autograd can follow. Where gradients are enabled in eval
    mode the forward pass runs as in inference, and a backward pass computes the batch again. Where
    a call needs the dense loop (attentions, hidden states, head masks), or the model has modules
    that must see the padded batch (hooks, unknown types), the reference runs, with the same
    numbers; `explain_implementation` says what runs and why.
    """

    # Modules whose forward the engine replaces.
    containers = {
        "embeddings": AlbertActEmbeddings,
        "encoder": AlbertActTransformer,
        "encoder.albert_layer": AlbertActLayer,
        "encoder.albert_layer.attention": AlbertActAttention,
        "encoder.albert_layer.act": HaltingUnit,
    }

    def __init__(self, config: AlbertActConfig, add_pooling_layer: bool | None = None):
        """
        Args:
            add_pooling_layer: default, what the configuration says.
        """
        # A field may have been set since the configuration was made.
        config.validate_architecture()
        super().__init__(config)
        self.embeddings = AlbertActEmbeddings(config)
        self.encoder = AlbertActTransformer(config)
        if add_pooling_layer is None:
            add_pooling_layer = config.add_pooling_layer
        self.pooler = (
            nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
        )
        self.pooler_activation = nn.Tanh() if add_pooling_layer else None
        self.post_init()

    @classmethod
    def from_albert(cls, source, *, halting_bias: float = 0.0, **fields) -> AlbertActModel:
        """A plain ALBERT's weights, all but the halting unit, which is new and has to be trained.

        At a fixed depth (`fixed_depth`) it computes what that ALBERT does. With halting it does
        not: states are mixed, so that it is a start for training and no finished model.

        Args:
            source: transformers' `AlbertModel` of one group and one inner layer, a task model with
                one, or a folder of either. It is left as it is.
            halting_bias: of the new unit; the lower, the deeper at first (0: about 2 iterations).
            fields: of AlbertActConfig, in place of ALBERT's own (`num_hidden_layers`, ...).

        Raises:
            TypeError, ValueError: it is no such ALBERT, or a field is unknown or out of range.
        """
        from albert_act_fast.from_albert import from_albert

        return from_albert(cls, source, halting_bias=halting_bias, **fields)

    def _apply(self, fn, recurse: bool = True):
        """What `to`, `cuda`, `half` and their like end in: weights that were moved away are not to
        be held in memory by graphs that were captured with them."""
        engine.gpu.release(self.encoder.albert_layer)
        return super()._apply(fn, recurse)

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
        **unknown,
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
        refuse_unknown(unknown)
        refuse_tracing()
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        for name, value in (
            ("output_attentions", output_attentions),
            ("output_hidden_states", output_hidden_states),
        ):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: got {value!r}, expected True or False.")
        given = GivenInputs(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds
        )
        self._check_weights()
        inspection = self._inspect()
        choice = self._choose(
            implementation,
            inspection,
            given.device(self.device),
            inputs_embeds=inputs_embeds,
            dense_only={
                "head_mask was given": head_mask is not None,
                "output_attentions was asked for": output_attentions,
                "output_hidden_states was asked for": output_hidden_states,
            },
        )
        self._check_quantization(choice)
        if choice.name == "reference":
            self._say_why_slow(choice, inspection)
            result = self._run_reference(
                self._check(given), output_hidden_states, output_attentions
            )
        else:
            result = self._run_engine(self._check_shapes(given), inspection, choice)
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
        """What a call would run now, on the model's device and in its present mode (training,
        gradients, autocast), and why: the implementation, how its iterations run, and the reason
        for every faster way that is not taken.

        Args:
            implementation: as in a call.

        Raises:
            ValueError: as in a call.
        """
        inspection = self._inspect()
        choice = self._choose(implementation, inspection, self.device)
        text = f"{choice.name} ({choice.reason})"
        if choice.name == "reference":
            return f"{text}: every token in every iteration"
        call = self._call(inspection, choice)
        taken, reasons = engine.engine_for(call)
        describe = getattr(taken, "describe", None)
        text += f": {taken.HOW if describe is None else describe(call)}"
        if reasons and not choice.gradients:
            text += f"; not faster because {'; '.join(reasons)}"
        for name, reason in choice.passed_over.items():
            text += f"; not {name}: {reason}"
        if choice.recompute:
            text += "; a backward pass computes the batch again, with gradients"
        return text

    def fixed_depth(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[B, S, H]: the layer applied `num_hidden_layers` times to every token, nothing halting
        and nothing mixed: ALBERT's own forward pass with these weights, to compare with."""
        given = GivenInputs(input_ids=input_ids, attention_mask=attention_mask)
        inputs = self._check(given)
        hidden = self.encoder.embedding_hidden_mapping_in(self.embeddings(inputs))
        for _ in range(self.config.num_hidden_layers):
            hidden = self.encoder.albert_layer.block(hidden, inputs.attention_mask)[0]
        return hidden

    @torch.compiler.disable
    def _inspect(self) -> engine.Inspection:
        return engine.inspect(self.embeddings, self.encoder, self.containers)

    @torch.compiler.disable
    def _choose(
        self, implementation, inspection, device, *, inputs_embeds=None, dense_only=None
    ) -> implementations.Choice:
        self.config.validate_limits()
        training = gradients = None
        if self.training:
            training = "the model is in training mode (call model.eval())"
        if torch.is_grad_enabled() and (
            (inputs_embeds is not None and inputs_embeds.requires_grad)
            or any(p.requires_grad for p in self.parameters())
        ):
            gradients = "gradients are enabled (wrap the call in torch.no_grad())"
        reasons = [reason for reason, holds in (dense_only or {}).items() if holds]
        if self.training and self.encoder.albert_layer.gradient_checkpointing:
            reasons.append("gradient checkpointing is on")
        if inspection.reference_only is not None:
            reasons.append(inspection.reference_only)
        elif inspection.active_dropout is not None and training is None:
            reasons.append(f"{inspection.active_dropout} is in training mode, the model is not")
        if torch._C._are_functorch_transforms_active():
            reasons.append("a transform of torch.func is active")
        if torch.autograd.forward_ad._current_level >= 0:
            reasons.append("forward-mode differentiation is active")
        weight = getattr(self.embeddings.word_embeddings, "weight", None)
        return implementations.choose(
            implementation,
            self.config.implementation,
            device=device,
            dtype=getattr(weight, "dtype", None),
            training=training,
            gradients=gradients,
            needs_reference=reasons,
            needs_torch=self._needs_torch(torch.device(device)),
        )

    def _needs_torch(self, device: torch.device) -> list[str]:
        reasons = []
        if torch.is_autocast_enabled(device.type):
            reasons.append("autocast is on, which only plain PyTorch follows")
        dtypes = {
            parameter.dtype
            for parameter in engine.parameters_below(self.embeddings, self.encoder)
            if parameter.is_floating_point()
        }
        if len(dtypes) > 1:
            names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            reasons.append(f"the model's weights have several dtypes ({names})")
        return reasons

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
    def _say_why_slow(self, choice: implementations.Choice, inspection: engine.Inspection) -> None:
        """Nobody asked for the dense loop where a module alone is the reason: say so once."""
        reason = inspection.reference_only
        if reason is not None and choice.reason != "asked for":
            logger.warning_once(
                f"AlbertActModel computes every token at every iteration, because {reason}; halted "
                "tokens are dropped where engines may read or call each module row by row."
            )

    def _run_reference(self, inputs, output_hidden_states, output_attentions) -> EncoderResult:
        embedded = self.embeddings(inputs)
        return self.encoder(
            embedded,
            inputs.attention_mask,
            None if inputs.head_mask is None else inputs.head_mask.to(embedded),
            output_hidden_states,
            output_attentions,
        )

    def _call(self, inspection, choice: implementations.Choice) -> engine.Call:
        return engine.Call(
            self.embeddings,
            self.encoder,
            inspection,
            choice.name,
            gradients=choice.gradients,
            int8=self.config.quantization == "int8",
        )

    def _settings(self) -> list:
        """All that the modules compute with beside their weights."""
        return [
            (id(module), [x for x in vars(module).values() if isinstance(x, int | float | str)])
            for part in (self.embeddings, self.encoder)
            for module in part.modules()
        ]

    # Packing and the loop depend on the data, so torch.compile leaves them as they are and
    # compiles what stands around them.
    @torch.compiler.disable
    def _run_engine(self, inputs: ShapedInputs, inspection, choice) -> EncoderResult:
        limits = self.config.halting_limits

        def run(call: engine.Call, inputs: ShapedInputs) -> EncoderResult:
            way, reasons = engine.engine_for(call)
            if call.int8 and way is not engine.cpu:
                raise ValueError(f"quantization: int8 cannot be computed: {'; '.join(reasons)}.")
            return engine.encode(call, way, inputs, limits)

        call = self._call(inspection, choice)
        if choice.gradients:
            return run(call, inputs)
        if not choice.recompute:
            with torch.no_grad():
                return run(call, inputs)

        def parameters() -> list[Tensor]:
            both = (*self.embeddings.parameters(), *self.encoder.parameters())
            return [p for p in both if p.requires_grad]

        if not call.int8 and any(type(p) is not nn.Parameter for p in parameters()):
            # Tensors in the parameters' place for this call alone (torch.func.functional_call).
            followed = dataclasses.replace(call, implementation="torch", gradients=True)
            return run(followed, inputs)
        settings = (inspection, *self._settings())

        def again(embeds: Tensor | None) -> EncoderResult:
            if call.int8:
                raise RuntimeError(
                    "quantization: int8 has no gradients; call model.quantize(None) first."
                )
            if (self._inspect(), *self._settings()) != settings:
                raise RuntimeError(
                    "AlbertActModel: the model was changed between the forward and the backward "
                    "pass, which computes the batch again. Call it with implementation='torch' or "
                    "'reference' to keep what the backward pass needs."
                )
            followed = dataclasses.replace(call, implementation="torch", gradients=True)
            return run(followed, dataclasses.replace(inputs, inputs_embeds=embeds))

        return encode_with_recomputed_gradients(
            lambda embeds: run(call, dataclasses.replace(inputs, inputs_embeds=embeds)),
            again,
            inputs.inputs_embeds,
            parameters(),
            parameters,
        )

    @torch.compiler.disable
    def _check_shapes(self, given: GivenInputs) -> ShapedInputs:
        return check_shapes(self.config, self.embeddings, self.encoder, given)

    @torch.compiler.disable
    def _check(self, given: GivenInputs) -> ModelInputs:
        return check_inputs(self.config, self.embeddings, self.encoder, given)

    @torch.compiler.disable
    def _check_weights(self) -> None:
        missing = engine.missing_weights(self)
        if missing is not None:
            raise ValueError(
                f"{missing}: the weight is on the meta device, which holds no numbers, and no hook "
                "brings it to memory; load the weights before calling the model."
            )


def refuse_tracing() -> None:
    """How often the layer is applied depends on the data: a trace would keep one batch's number.

    Raises:
        RuntimeError: the call is being traced or exported.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise RuntimeError(
            "AlbertActModel: the number of iterations depends on the data, so that a traced or "
            "exported graph would be wrong for any other batch. model.exportable() is a loop of "
            "fixed length for that; or call the model from Python, torch.compile included."
        )
