"""The small trained models that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_MODELS = files("albert_act_fast") / "data" / "models"


def shipped_models() -> list[str]:
    """Names of the models in this installation."""
    if not _MODELS.is_dir():
        return []
    return sorted(entry.name for entry in _MODELS.iterdir() if (entry / "config.json").is_file())


def shipped_model(name: str) -> Path:
    """The folder of a shipped model, for `from_pretrained`; its README.md is the model card.

    Args:
        name: "sst2", sentiment of English sentences (`AlbertActForSequenceClassification`), or
            "mlm", the pre-trained model it was fine-tuned from (`AlbertActForPreTraining`,
            `AlbertActForMaskedLM`).

    Raises:
        ValueError: there is no such model; the message lists those there are.
    """
    known = shipped_models()
    if name not in known:
        raise ValueError(
            f"name: got {name!r}, expected one of {', '.join(known) or '(none is installed)'}."
        )
    return Path(str(_MODELS / name))
