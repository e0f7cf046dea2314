"""The exact token-dropping engine: computes running tokens only, with the reference's results."""

from albert_act_fast.engine.encode import encode
from albert_act_fast.engine.loop import PackedResult, iterate
from albert_act_fast.engine.packing import PackedTokens, pack

__all__ = ["PackedResult", "PackedTokens", "encode", "iterate", "pack"]
