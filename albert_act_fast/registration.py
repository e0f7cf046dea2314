"""Registers the configuration, the tokenizer and the models with transformers' Auto classes."""

from transformers import (
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
from albert_act_fast.published_tokenizer import AlbertActTokenizer
from albert_act_fast.tokenizer import TokenizerByAge

AutoConfig.register(AlbertActConfig.model_type, AlbertActConfig)
# The first for folders that name no class; the second, by its name, for those that name it.
AutoTokenizer.register(AlbertActConfig, TokenizerByAge, slow_tokenizer_class=AlbertActTokenizer)
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
