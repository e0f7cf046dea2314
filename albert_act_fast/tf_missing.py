"""What stands in for `TFAlbertActModel` where TensorFlow is not installed."""

from __future__ import annotations


class _NeedsTensorFlow(type):
    def __getattr__(cls, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        _refuse()

    def __call__(cls, *args, **kwargs):
        _refuse()


class TFAlbertActModel(metaclass=_NeedsTensorFlow):
    """Can be imported, so that code which names it and does not use it runs; whatever else is done
    with it raises ImportError."""


def _refuse():
    raise ImportError(
        "TFAlbertActModel needs TensorFlow, which is not installed: pip install "
        "'albert_act_fast[tensorflow]'. AlbertActModel computes the same without it."
    )
