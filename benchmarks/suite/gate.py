"""Correctness before timing: a variant with wrong results has no time.

What is right is the plain loop in float32. How far a variant may be off is judged by what plain
PyTorch makes of the same rounding: for bfloat16 the plain loop in bfloat16, for int8 the plain loop
with weights and rows rounded. Variants of fixed depth compute another function, and are compared
with the reference's layer iterated without halting.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from albert_act_fast import AlbertActModel
from suite.inputs import Batch
from suite.peers import fixed_depth
from suite.timing import MACHINE_CLOCK, Clock
from suite.variants import Result, Variant, adaptive_call, in_dtype

# Root mean square error in float32, of states of scale 1; measured: 2e-6 at 24 iterations.
FLOAT32_ERROR = 1e-5
# Share of tokens in float32 whose depth may differ: those whose probability lands on the threshold
# but for rounding, of which a batch of 1024 tokens seldom has one.
FLOAT32_DIFFERING = 0.002
# In other dtypes: beyond twice the share of the plain loop in the same dtype, and in tokens,
# because in a batch of few tokens a share says little.
MORE_DIFFERING, MORE_TOKENS = 0.01, 3
# The peers' int8 rounds coarser (one factor for a whole tensor of activations) over 24 iterations
# without halting; this only stops what computes something else.
PEER_ERROR = {"float32": 1e-4, "bfloat16": 0.2, "int8": 0.7}
# Yardsticks run on so many places of the batch at the largest size, and on what takes as long at a
# smaller one: plain loops over all of a large batch would take longer than the timing.
YARDSTICK_ROWS, YARDSTICK_ITERATIONS, YARDSTICK_WIDTH = 512, 24, 768


class WrongResult(RuntimeError):
    """A variant's results are not those of the reference."""


@dataclass(frozen=True)
class Check:
    """error: root mean square over the tokens' states; differing: share of tokens with another
    depth than the reference's, None at fixed depth."""

    error: float
    differing: float | None


class Gate:
    """The reference's results on one case, the seconds they took, and who may pass."""

    def __init__(self, model: AlbertActModel, batch: Batch, clock: Clock = MACHINE_CLOCK):
        self.model, self.batch = model, batch
        start = clock.now()
        self.reference = adaptive_call(model, batch, "reference")()
        self.reference_seconds = clock.now() - start
        self._fixed: Tensor | None = None
        self._yardsticks: dict[str, Check] = {}

    def check(self, variant: Variant, result: Result) -> Check:
        """What the variant's result is off by.

        Raises:
            WrongResult: it is off by more than rounding explains.
        """
        if not variant.adaptive:
            return self._check_fixed(variant, result)
        found = compare(result, self.reference, self.batch)
        if variant.dtype == "float32":
            error, differing = FLOAT32_ERROR, FLOAT32_DIFFERING
        else:
            yardstick = self._yardstick(variant.dtype)
            # What is not rounded, the halting state among it, is float32 in any dtype.
            error, differing = 2 * yardstick.error + FLOAT32_ERROR, 2 * yardstick.differing
            differing += MORE_DIFFERING + MORE_TOKENS / self.batch.tokens
        # Not `>`: NaN must not pass.
        if not (found.error <= error and found.differing <= differing):
            raise WrongResult(
                f"{variant.name}: error {found.error:.1e}, at most {error:.1e} expected; "
                f"{found.differing:.2%} of the depths differ, at most {differing:.2%} expected."
            )
        return found

    def _check_fixed(self, variant: Variant, result: Result) -> Check:
        if self._fixed is None:
            self._fixed = fixed_depth(self.model, self.batch)
        token = self.batch.attention_mask.bool()
        error = rms((result.hidden.float() - self._fixed)[token])
        if not error <= PEER_ERROR[variant.dtype]:
            raise WrongResult(
                f"{variant.name}: error {error:.1e}, at most {PEER_ERROR[variant.dtype]:.1e} "
                "expected."
            )
        return Check(error, None)

    def _yardstick(self, dtype: str) -> Check:
        if dtype not in self._yardsticks:
            config = self.model.config
            ratio = YARDSTICK_ITERATIONS / config.num_hidden_layers
            ratio *= (YARDSTICK_WIDTH / config.hidden_size) ** 2
            chosen, batch = self.batch.shortest(int(YARDSTICK_ROWS * ratio))
            model = rounded(self.model) if dtype == "int8" else in_dtype(self.model, dtype)
            plain = adaptive_call(model, batch, "reference")()
            width = batch.input_ids.size(1)
            hidden, n_updates = self.reference.hidden, self.reference.n_updates
            exact = Result(hidden[chosen, :width], n_updates[chosen, :width])
            self._yardsticks[dtype] = compare(plain, exact, batch)
        return self._yardsticks[dtype]


def compare(result: Result, reference: Result, batch: Batch) -> Check:
    token = batch.attention_mask.bool()
    error = rms((result.hidden.float() - reference.hidden.float())[token])
    differing = (result.n_updates != reference.n_updates)[token].float().mean().item()
    return Check(error, differing)


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


class RoundedLinear(nn.Module):
    """A linear module on weights and rows rounded to 8 bits, one factor for each output and row."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = _rounded(linear.weight), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(_rounded(x), self.weight, self.bias)


def _rounded(x: Tensor) -> Tensor:
    factor = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    return (x / factor).round() * factor


def rounded(model: AlbertActModel) -> AlbertActModel:
    """A copy of the model that computes its layer's products in 8 bits, in plain PyTorch."""
    model = copy.deepcopy(model)
    layer = model.encoder.albert_layer
    for owner, names in (
        (layer.attention, ("query", "key", "value", "dense")),
        (layer, ("ffn", "ffn_output")),
    ):
        for name in names:
            setattr(owner, name, RoundedLinear(getattr(owner, name)))
    return model
