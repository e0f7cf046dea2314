"""ALBERT-ACT, fast: every token runs only as many iterations as its halting rule asks for.

`AlbertActModel` and the task models are drop-ins for the published `act` package under current
transformers; importing this package registers them with `AutoConfig`, `AutoModel` and friends.
"""

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albert_act_fast.configuration import AlbertActConfig
    from albert_act_fast.engine import release
    from albert_act_fast.implementations import use_implementation
    from albert_act_fast.modeling import (
        AlbertActForMaskedLM,
        AlbertActForMultipleChoice,
        AlbertActForPreTraining,
        AlbertActForQuestionAnswering,
        AlbertActForSequenceClassification,
        AlbertActForTokenClassification,
        AlbertActModel,
        AlbertActPreTrainedModel,
        act_loss,
    )
    from albert_act_fast.published_tokenizer import AlbertActTokenizer
    from albert_act_fast.shipped import shipped_model
    from albert_act_fast.take_over import accelerate, restore
    from albert_act_fast.text import TextEncoder, TextError
    from albert_act_fast.tf_model import TFAlbertActModel  # noqa: F401
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
    "AlbertActTokenizer",
    "TextEncoder",
    "TextError",
    "__version__",
    "accelerate",
    "act_loss",
    "release",
    "restore",
    "shipped_model",
    "use_implementation",
]

_MODULES = {
    "AlbertActConfig": "configuration",
    "AlbertActTokenizer": "published_tokenizer",
    "TextEncoder": "text",
    "TextError": "text",
    "__version__": "version",
    "accelerate": "take_over",
    "release": "engine",
    "restore": "take_over",
    "shipped_model": "shipped",
    "use_implementation": "implementations",
}


def _started_as_the_command() -> bool:
    """Whether this process is `albert-act-fast` or `python -m albert_act_fast`, which must show
    their help before PyTorch and transformers are loaded."""
    name = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    if name == "albert-act-fast":
        return True
    started = getattr(sys, "orig_argv", [])
    return name == "-m" and started[started.index("-m") + 1 :][:1] == ["albert_act_fast"]


def __getattr__(name: str):
    if name == "TFAlbertActModel":
        return _tensorflow_model()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "__version__":
        importlib.import_module("albert_act_fast.registration")
    module = importlib.import_module(f"albert_act_fast.{_MODULES.get(name, 'modeling')}")
    value = globals()[name] = getattr(module, name)
    return value


def _tensorflow_model():
    """Not in `__all__`: it brings TensorFlow along, which nobody shall pay for unasked."""
    spec = importlib.util.find_spec("tensorflow")
    found = spec is not None and spec.origin is not None  # a mere folder of that name has none
    module = importlib.import_module(f"albert_act_fast.{'tf_model' if found else 'tf_missing'}")
    return module.TFAlbertActModel


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "TFAlbertActModel"})


if not _started_as_the_command():
    importlib.import_module("albert_act_fast.registration")
