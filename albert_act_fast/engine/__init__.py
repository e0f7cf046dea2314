"""The exact token-dropping engine: computes running tokens only, with the reference's results."""

from albert_act_fast.engine.encode import encode
from albert_act_fast.engine.loop import PackedResult, iterate
from albert_act_fast.engine.packing import PackedTokens, pack
from albert_act_fast.engine.training import encode_with_gradients

__all__ = [
    "PackedResult",
    "PackedTokens",
    "encode",
    "encode_with_gradients",
    "iterate",
    "pack",
]
