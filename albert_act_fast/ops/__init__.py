"""The operators the engine runs on; see `contracts` for what each computes."""

from albert_act_fast.ops import contracts, torch_ops  # noqa: F401  (registers the operators)
from albert_act_fast.ops.contracts import OPERATORS, implementation_of, registered

__all__ = ["OPERATORS", "implementation_of", "registered"]
