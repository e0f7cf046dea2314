"""A text that cannot be worked on: which one, and why."""

from __future__ import annotations

# What the caller may do about it, by kind.
_ADVICE = {
    "too long": "truncation=True cuts it; encode(chunk=True) pools windows of it",
    "not finite": "is the checkpoint damaged? does float32 help?",
    "memory": "a smaller batch_tokens, or a shorter text",
}


class TextError(ValueError):
    """One text of many that has no result.

    Attributes:
        index: its place in the input, from 0.
        text: the text itself, or whatever stood in its place.
        kind: "type" (no string), "unicode" (a lone surrogate), "empty" (no token), "unknown"
            (nothing but pieces that are not in the vocabulary), "too long", "not finite" (NaN or
            infinity came out of the model) or "memory" (it does not fit, even alone).
        reason: what was given and what was expected, in words.
        computed: with `errors="raise"`, what a call had computed before it; else None.
    """

    def __init__(self, index: int, text: object, kind: str, reason: str):
        advice = _ADVICE.get(kind)
        super().__init__(f"text {index}: {reason}" + (f" ({advice})" if advice else ""))
        self.index = index
        self.text = text
        self.kind = kind
        self.reason = reason
        self.computed = None

    def __reduce__(self):
        return type(self), (self.index, self.text, self.kind, self.reason)


def shown(text: object) -> str:
    """The text as an error shows it: its beginning, with what is not printable escaped."""
    if not isinstance(text, str):
        return type(text).__name__
    return (
        ascii(text[:40]) if any("\ud800" <= c <= "\udfff" for c in text[:40]) else repr(text[:40])
    )
