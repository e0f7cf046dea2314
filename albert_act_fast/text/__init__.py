"""From texts to results, any amount of them: `TextEncoder` and what it returns."""

from albert_act_fast.text.encoder import TextEncoder
from albert_act_fast.text.errors import TextError
from albert_act_fast.text.results import (
    EncodeResult,
    FilledMask,
    FilledText,
    HaltingRule,
    TextClass,
    TextDepth,
    TextEmbedding,
    TokenClass,
    TokenClasses,
)

__all__ = [
    "EncodeResult",
    "FilledMask",
    "FilledText",
    "HaltingRule",
    "TextClass",
    "TextDepth",
    "TextEmbedding",
    "TextEncoder",
    "TextError",
    "TokenClass",
    "TokenClasses",
]
