"""ALBERT-ACT, fast: every token runs only as many iterations as its halting rule asks for.

`AlbertActModel` and the task models are drop-ins for the published `act` package under current
transformers; importing this package registers them with `AutoConfig`, `AutoModel` and friends.
"""

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

from albert_act_fast.configuration import AlbertActConfig
from albert_act_fast.implementations import use_implementation
from albert_act_fast.live import accelerate, restore
from albert_act_fast.modeling import (
    AlbertActForMaskedLM,
    AlbertActForMultipleChoice,
    AlbertActForPreTraining,
    AlbertActForQuestionAnswering,
    AlbertActForSequenceClassification,
    AlbertActForTokenClassification,
    AlbertActModel,
    AlbertActPreTrainedModel,
)
from albert_act_fast.shipped import shipped_model
from albert_act_fast.version import __version__

__all__ = [
    "AlbertActConfig",
    "AlbertActForMaskedLM",
    "AlbertActForMultipleChoice",
    "AlbertActForPreTraining",
    "AlbertActForQuestionAnswering",
    "AlbertActForSequenceClassification",
    "AlbertActForTokenClassification",
    "AlbertActModel",
    "AlbertActPreTrainedModel",
    "__version__",
    "accelerate",
    "restore",
    "shipped_model",
    "use_implementation",
]

AutoConfig.register(AlbertActConfig.model_type, AlbertActConfig)
AutoTokenizer.register(AlbertActConfig, AlbertTokenizer)
for _auto, _model in {
    AutoModel: AlbertActModel,
    AutoModelForPreTraining: AlbertActForPreTraining,
    AutoModelForMaskedLM: AlbertActForMaskedLM,
    AutoModelForSequenceClassification: AlbertActForSequenceClassification,
    AutoModelForTokenClassification: AlbertActForTokenClassification,
    AutoModelForQuestionAnswering: AlbertActForQuestionAnswering,
    AutoModelForMultipleChoice: AlbertActForMultipleChoice,
}.items():
    _auto.register(AlbertActConfig, _model)
del _auto, _model
