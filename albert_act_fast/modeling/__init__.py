"""The drop-in models, under transformers' conventions."""

from albert_act_fast.modeling.base import AlbertActModel
from albert_act_fast.modeling.heads import (
    AlbertActForMaskedLM,
    AlbertActForMultipleChoice,
    AlbertActForPreTraining,
    AlbertActForQuestionAnswering,
    AlbertActForSequenceClassification,
    AlbertActForTokenClassification,
    act_loss,
)
from albert_act_fast.modeling.pretrained import AlbertActPreTrainedModel

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
