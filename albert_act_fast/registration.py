"""Registers the configuration, the tokenizer and the models with transformers' Auto classes."""

from transformers import (
    AlbertTokenizer,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from albert_act_fast import modeling
from albert_act_fast.configuration import AlbertActConfig

AutoConfig.register(AlbertActConfig.model_type, AlbertActConfig)
AutoTokenizer.register(AlbertActConfig, AlbertTokenizer)
for _auto, _model in {
    AutoModel: modeling.AlbertActModel,
    AutoModelForPreTraining: modeling.AlbertActForPreTraining,
    AutoModelForMaskedLM: modeling.AlbertActForMaskedLM,
    AutoModelForSequenceClassification: modeling.AlbertActForSequenceClassification,
    AutoModelForTokenClassification: modeling.AlbertActForTokenClassification,
    AutoModelForQuestionAnswering: modeling.AlbertActForQuestionAnswering,
    AutoModelForMultipleChoice: modeling.AlbertActForMultipleChoice,
}.items():
    _auto.register(AlbertActConfig, _model)
