"""The task models: the bare encoder, transformers' heads, the task's loss and the ACT loss."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.albert.modeling_albert import AlbertMLMHead, AlbertSOPHead
from transformers.utils import logging

from albert_act_fast.configuration import AlbertActConfig
from albert_act_fast.inputs import GivenInputs, refuse_unknown
from albert_act_fast.modeling.base import AlbertActModel
from albert_act_fast.modeling.pretrained import AlbertActPreTrainedModel
from albert_act_fast.outputs import (
    AlbertActForPreTrainingOutput,
    AlbertActMaskedLMOutput,
    AlbertActModelOutput,
    AlbertActMultipleChoiceOutput,
    AlbertActQuestionAnsweringOutput,
    AlbertActSequenceClassifierOutput,
    AlbertActTokenClassifierOutput,
)

logger = logging.get_logger(__name__)


def act_loss(ponder_cost: Tensor, tau: float) -> Tensor:
    """tau * mean over the batch of the summed ponder cost of a sequence's tokens [B, S].

    Graves 2016, eq. 10 and 11; the paper's time penalty.
    """
    return tau * ponder_cost.sum(-1).mean()


class _TaskModel(AlbertActPreTrainedModel):
    """Runs the encoder, then what the subclass adds, then sums the losses."""

    output_class: type

    def __init__(self, config: AlbertActConfig, add_pooling_layer: bool):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.albert = AlbertActModel(config, add_pooling_layer=add_pooling_layer)

    @abstractmethod
    def _apply_head(self, encoded: AlbertActModelOutput, **head_arguments) -> dict[str, Tensor]:
        """The head's output fields, logits first."""

    @abstractmethod
    def _task_loss(
        self, fields: dict[str, Tensor], labels: dict[str, Tensor | None]
    ) -> Tensor | None:
        """The task's loss, None where no labels were given."""

    def _run(
        self,
        given: tuple,
        options: tuple,
        labels: dict[str, Tensor | None],
        act_tau: float | None,
        return_dict: bool | None,
        unknown: dict | None = None,
        head_arguments: dict | None = None,
    ):
        """`given` and `options` are the encoder's arguments, in its own order."""
        refuse_unknown(unknown or {})
        encoded = self.albert(*given, *options)
        fields = self._apply_head(encoded, **(head_arguments or {}))
        loss = self._task_loss(fields, labels)
        tau = self.config.act_tau if act_tau is None else act_tau
        if self.training and loss is None and tau:
            logger.warning_once(
                f"{type(self).__name__}: act_tau={tau} is set, but no labels were given, so that "
                "there is no loss to add the ponder cost to; a loss computed elsewhere (label "
                "smoothing of the Trainer, for one) is without it: add "
                "albert_act_fast.act_loss(output.ponder_cost, tau) there."
            )
        if loss is not None and tau is not None:
            loss = loss + act_loss(encoded.ponder_cost, tau)
        output = self.output_class(
            loss=loss,
            **fields,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            updates=encoded.updates,
            n_updates=encoded.n_updates,
            remainders=encoded.remainders,
            ponder_cost=encoded.ponder_cost,
        )
        return self._as_asked(output, return_dict)


class _LabelledModel(_TaskModel):
    """A task model with one kind of labels."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        implementation: str | None = None,
        act_tau: float | None = None,
        **unknown,
    ):
        """See `AlbertActModel.forward` for the inputs and the class for its labels.

        Args:
            labels: if given, the output has a loss.
            act_tau: overrides `config.act_tau`, the weight of the ponder cost in the loss.
        """
        given = (input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds)
        options = (output_attentions, output_hidden_states, True, implementation)
        labels = {"labels": labels}
        return self._run(given, options, labels, act_tau, return_dict, unknown)


class _VocabularyHead:
    """Predictions over the vocabulary, their weights tied to the word embeddings."""

    _tied_weights_keys = {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    }

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        # One bias under two names, even where `tie_word_embeddings` is off; transformers would
        # otherwise save one of them and load the other at random.
        bias = "predictions.decoder.bias"
        return {bias: self._tied_weights_keys[bias]} | super().get_expanded_tied_weights_keys(
            all_submodels
        )

    def get_input_embeddings(self) -> nn.Embedding:
        return self.albert.embeddings.word_embeddings

    def get_output_embeddings(self) -> nn.Linear:
        return self.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.predictions.decoder = new_embeddings
        self.predictions.bias = new_embeddings.bias


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Over the last dimension; labels of -100 count for nothing."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


class AlbertActForPreTraining(_VocabularyHead, _TaskModel):
    """Masked-language-model and sentence-order heads, as in pre-training."""

    output_class = AlbertActForPreTrainingOutput

    def __init__(self, config: AlbertActConfig):
        super().__init__(config, add_pooling_layer=True)
        self.predictions = AlbertMLMHead(config)
        self.sop_classifier = AlbertSOPHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        implementation: str | None = None,
        act_tau: float | None = None,
        **unknown,
    ):
        """See `AlbertActModel.forward` for the inputs.

        Args:
            labels: [B, S], ids of the masked tokens, -100 elsewhere.
            sentence_order_label: [B], 0 in the text's order, 1 swapped. The loss is the sum over
                the labels given.
            act_tau: overrides `config.act_tau`, the weight of the ponder cost in the loss.
        """
        given = (input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds)
        options = (output_attentions, output_hidden_states, True, implementation)
        labels = {"labels": labels, "sentence_order_label": sentence_order_label}
        return self._run(given, options, labels, act_tau, return_dict, unknown)

    def _apply_head(self, encoded):
        return {
            "prediction_logits": self.predictions(encoded.last_hidden_state),
            "sop_logits": self.sop_classifier(encoded.pooler_output),
        }

    def _task_loss(self, fields, labels):
        losses = [
            _cross_entropy(fields[logits], labels[name])
            for logits, name in (
                ("prediction_logits", "labels"),
                ("sop_logits", "sentence_order_label"),
            )
            if labels[name] is not None
        ]
        return sum(losses) if losses else None


class AlbertActForMaskedLM(_VocabularyHead, _LabelledModel):
    """Masked language model; labels [B, S], -100 where no loss is wanted."""

    output_class = AlbertActMaskedLMOutput

    def __init__(self, config: AlbertActConfig):
        super().__init__(config, add_pooling_layer=False)
        self.predictions = AlbertMLMHead(config)
        self.post_init()

    def _apply_head(self, encoded):
        return {"logits": self.predictions(encoded.last_hidden_state)}

    def _task_loss(self, fields, labels):
        if labels["labels"] is None:
            return None
        return _cross_entropy(fields["logits"], labels["labels"])


class AlbertActForSequenceClassification(_LabelledModel):
    """Classification or regression of a sequence from its pooled output.

    labels: [B] class ids, [B, num_labels] floats for several labels at once, or [B] floats for
    regression; `config.problem_type` says which, and is set from the labels where it is None.
    """

    output_class = AlbertActSequenceClassifierOutput

    def __init__(self, config: AlbertActConfig):
        super().__init__(config, add_pooling_layer=True)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _apply_head(self, encoded):
        return {"logits": self.classifier(self.dropout(encoded.pooler_output))}

    def _task_loss(self, fields, labels):
        logits, labels = fields["logits"], labels["labels"]
        if labels is None:
            return None
        if self.config.problem_type is None:
            if self.num_labels == 1:
                self.config.problem_type = "regression"
            elif labels.is_floating_point():
                self.config.problem_type = "multi_label_classification"
            else:
                self.config.problem_type = "single_label_classification"
        if self.config.problem_type == "regression":
            return F.mse_loss(logits.view(labels.shape), labels.to(logits.dtype))
        if self.config.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return _cross_entropy(logits, labels)


class AlbertActForTokenClassification(_LabelledModel):
    """A label for every token; labels [B, S], -100 where no loss is wanted."""

    output_class = AlbertActTokenClassifierOutput

    def __init__(self, config: AlbertActConfig):
        super().__init__(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _apply_head(self, encoded):
        return {"logits": self.classifier(self.dropout(encoded.last_hidden_state))}

    def _task_loss(self, fields, labels):
        if labels["labels"] is None:
            return None
        return _cross_entropy(fields["logits"], labels["labels"])


class AlbertActForQuestionAnswering(_TaskModel):
    """Start and end of an answer's span."""

    output_class = AlbertActQuestionAnsweringOutput

    def __init__(self, config: AlbertActConfig):
        super().__init__(config, add_pooling_layer=False)
        if config.num_labels != 2:
            raise ValueError(
                f"num_labels: got {config.num_labels}, expected 2 (start and end) for "
                f"{type(self).__name__}."
            )
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        implementation: str | None = None,
        act_tau: float | None = None,
        **unknown,
    ):
        """See `AlbertActModel.forward` for the inputs.

        Args:
            start_positions, end_positions: [B], columns of the answer; one outside the input (an
                answer that was cut off) counts for nothing. The loss needs both.
            act_tau: overrides `config.act_tau`, the weight of the ponder cost in the loss.
        """
        given = (input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds)
        options = (output_attentions, output_hidden_states, True, implementation)
        labels = {"start_logits": start_positions, "end_logits": end_positions}
        return self._run(given, options, labels, act_tau, return_dict, unknown)

    def _apply_head(self, encoded):
        start, end = self.qa_outputs(encoded.last_hidden_state).unbind(-1)
        return {"start_logits": start.contiguous(), "end_logits": end.contiguous()}

    def _task_loss(self, fields, labels):
        if any(positions is None for positions in labels.values()):
            return None
        losses = []
        for name, positions in labels.items():
            positions, length = positions.flatten(), fields[name].size(1)
            outside = (positions < 0) | (positions >= length)
            target = positions.masked_fill(outside, length)
            losses.append(F.cross_entropy(fields[name], target, ignore_index=length))
        return sum(losses) / 2


# The encoder's arguments and the dimensions they have here; None: as they are.
_CHOICE_INPUTS = {
    "input_ids": 3,
    "attention_mask": 3,
    "token_type_ids": 3,
    "position_ids": 3,
    "head_mask": None,
    "inputs_embeds": 4,
}


class AlbertActForMultipleChoice(_LabelledModel):
    """Which of C choices: inputs [B, C, S], labels [B], logits [B, C].

    Depths are of the flattened batch: n_updates [B * C, S].
    """

    output_class = AlbertActMultipleChoiceOutput

    def __init__(self, config: AlbertActConfig):
        super().__init__(config, add_pooling_layer=True)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def _run(self, given, options, labels, act_tau, return_dict, unknown=None):
        GivenInputs(*given)  # raises unless all are tensors
        choices, flat = None, []
        for (name, dimensions), tensor in zip(_CHOICE_INPUTS.items(), given, strict=True):
            if tensor is not None and dimensions is not None:
                if tensor.dim() != dimensions:
                    raise ValueError(
                        f"{name}: got shape {tuple(tensor.shape)}, expected {dimensions} "
                        "dimensions, [sequences, choices, tokens, ...]."
                    )
                choices = tensor.size(1) if choices is None else choices
                tensor = tensor.flatten(0, 1)
            flat.append(tensor)
        return super()._run(
            flat, options, labels, act_tau, return_dict, unknown, {"choices": choices}
        )

    def _apply_head(self, encoded, choices: int):
        scores = self.classifier(self.dropout(encoded.pooler_output))
        return {"logits": scores.view(-1, choices)}

    def _task_loss(self, fields, labels):
        if labels["labels"] is None:
            return None
        return _cross_entropy(fields["logits"], labels["labels"])
