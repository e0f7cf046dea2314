"""The operators the engine runs on; see `contracts` for what each computes."""

# Importing these registers the operators; the schemas come first.
from albert_act_fast.ops import contracts, torch_ops, triton_ops  # noqa: F401, I001
from albert_act_fast import native  # noqa: F401
from albert_act_fast.ops.contracts import (
    ARGUMENTS,
    OPERATORS,
    halting_workspace,
    implementation_of,
    registered,
)

__all__ = ["ARGUMENTS", "OPERATORS", "halting_workspace", "implementation_of", "registered"]
