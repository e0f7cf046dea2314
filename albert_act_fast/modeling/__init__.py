"""The drop-in models, under transformers' conventions."""

from albert_act_fast.modeling.base import AlbertActModel, AlbertActPreTrainedModel
from albert_act_fast.modeling.heads import (
    AlbertActForMaskedLM,
    AlbertActForMultipleChoice,
    AlbertActForPreTraining,
    AlbertActForQuestionAnswering,
    AlbertActForSequenceClassification,
    AlbertActForTokenClassification,
    act_loss,
)

__all__ = [
    "AlbertActForMaskedLM",
    "AlbertActForMultipleChoice",
    "AlbertActForPreTraining",
    "AlbertActForQuestionAnswering",
    "AlbertActForSequenceClassification",
    "AlbertActForTokenClassification",
    "AlbertActModel",
    "AlbertActPreTrainedModel",
    "act_loss",
]
