"""The small trained models that come with the package."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

_MODELS = files("albert_act_fast") / "data" / "models"
DEFAULT_MODEL = "sentence"


def shipped_models() -> list[str]:
    """Names of the models in this installation."""
    if not _MODELS.is_dir():
        return []
    return sorted(entry.name for entry in _MODELS.iterdir() if (entry / "config.json").is_file())


def shipped_model(name: str = DEFAULT_MODEL) -> Path:
    """The folder of a shipped model, for `from_pretrained`; its README.md is the model card.

    Args:
        name: "sentence", a sentence encoder (`AlbertActModel`; the mean of the token states is the
            embedding), or "sst2", sentiment of English sentences
            (`AlbertActForSequenceClassification`), an older and smaller model.

    Raises:
        ValueError: there is no such model; the message lists those there are.
    """
    known = shipped_models()
    if name not in known:
        raise ValueError(
            f"name: got {name!r}, expected one of {', '.join(known) or '(none is installed)'}."
        )
    return Path(str(_MODELS / name))


def is_sentence_encoder(folder: str | os.PathLike) -> bool:
    """Whether a folder says how its token states become one embedding, and has no other head."""
    folder = Path(folder)
    if not (folder / "1_Pooling" / "config.json").is_file():
        return False
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("architectures") in (None, [], ["AlbertActModel"])


def pooling(folder: str | os.PathLike) -> str:
    """How a sentence encoder's token states become one embedding: "mean" or "cls".

    Read where SentenceTransformers keeps it, `1_Pooling/config.json`; "mean" if there is none.

    Raises:
        ValueError: it says something else, or more than one.
    """
    file = Path(folder) / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    settings = json.loads(file.read_text(encoding="utf-8"))
    modes = {name for name, value in settings.items() if name.startswith("pooling_mode_") and value}
    if "pooling_mode" in settings:  # as sentence-transformers 6 writes it
        mode = settings["pooling_mode"]
        modes = {mode} if isinstance(mode, str) else set(mode)
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    known |= {"mean": "mean", "cls": "cls"}
    if len(modes) != 1 or not modes <= known.keys():
        raise ValueError(f"{file}: pooling {sorted(modes)}, expected one of {sorted(known)}.")
    return known[modes.pop()]
