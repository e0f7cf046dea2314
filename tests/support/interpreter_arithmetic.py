"""Arithmetic of Triton's interpreter: see `support.triton_interpreter`, which installs it."""

from __future__ import annotations

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

HALVES = (tl.bfloat16, tl.float16)


class KernelError(AssertionError):
    """A kernel did what it must not."""


def to_float32(bits: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32).reshape(bits.shape)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Bit patterns, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.reshape(values.shape))


def _refuse_halves(*handles) -> None:
    for handle in handles:
        if isinstance(handle, TensorHandle) and handle.dtype.scalar in HALVES:
            raise KernelError(f"arithmetic on {handle.dtype.scalar}: upcast on load")


def make_arithmetic_strict() -> None:
    builder = InterpreterBuilder
    binary, unary, ternary = builder.binary_op, builder.unary_op, builder.ternary_op
    cast, convert = builder.cast_impl, builder.create_fp_to_fp

    def binary_op(self, left, right, op):
        _refuse_halves(left, right)
        result = binary(self, left, right, op)
        if result.data.dtype == np.bool_:  # comparisons come back labelled as their operands
            result.dtype = tl.int1
        return result

    def unary_op(self, argument, op):
        _refuse_halves(argument)
        return unary(self, argument, op)

    def ternary_op(self, a, b, c, op):
        if op is not np.where:
            _refuse_halves(a, b, c)
        return ternary(self, a, b, c, op)

    def cast_impl(self, source, target):
        of, to = source.dtype.scalar, target.scalar
        if of == tl.bfloat16 and to != tl.bfloat16:
            source = TensorHandle(to_float32(source.data), tl.float32)
        elif to == tl.bfloat16 and of != tl.bfloat16:
            return TensorHandle(to_bfloat16(source.data.astype(np.float32)), tl.bfloat16)
        return cast(self, source, target)

    def create_fp_to_fp(self, source, target, rounding_mode):
        nearest = (None, interpreter._ir.ROUNDING_MODE.RTNE)
        if rounding_mode in nearest:
            return cast_impl(self, source, target)
        return convert(self, source, target, rounding_mode)

    def create_dot(self, a, b, accumulator, input_precision, max_num_imprecise_acc):
        if a.dtype.scalar != b.dtype.scalar:
            raise KernelError(f"tl.dot of {a.dtype.scalar} and {b.dtype.scalar}")
        a, b = (
            to_float32(x.data) if x.dtype.scalar == tl.bfloat16 else x.data.astype(np.float32)
            for x in (a, b)
        )
        return TensorHandle(np.matmul(a, b) + accumulator.data, accumulator.dtype.scalar)

    def create_erf(self, argument):
        _refuse_halves(argument)
        values = torch.from_numpy(np.ascontiguousarray(argument.data)).erf().numpy()
        return TensorHandle(values, argument.dtype.scalar)

    for function in (binary_op, unary_op, ternary_op, cast_impl, create_fp_to_fp, create_dot):
        setattr(builder, function.__name__, function)
    builder.create_erf = create_erf

    check_tensor = interpreter.ReduceScanOpInterface.check_tensor

    def check(self, inputs):
        _refuse_halves(*(x.handle for x in inputs))
        check_tensor(self, inputs)

    interpreter.ReduceScanOpInterface.check_tensor = check
