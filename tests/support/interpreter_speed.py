"""What Triton's interpreter does again and again, done once: see `support.triton_interpreter`,
which installs it."""

from __future__ import annotations

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor


def make_interpreter_fast() -> None:
    _patch_language_once()
    _describe_types_once()


def _patch_language_once() -> None:
    """A launch patches Triton's language and takes that back. As the interpreter comes, every call
    of a function by a kernel patches it anew, which takes a quarter of the time."""
    patch, call, patched = interpreter._patch_lang, GridExecutor.__call__, {}

    def patch_lang(function):
        # Our kernels see all of the language, Triton's own functions only what that is made of.
        seen = frozenset(map(id, function.__globals__.values())) & {id(tl), id(tl.core)}
        if seen not in patched:
            patched[seen] = patch(function)
        return patched[seen]

    def launch(self, *arguments, **keywords):
        try:
            return call(self, *arguments, **keywords)
        finally:
            patched.clear()

    interpreter._patch_lang = patch_lang
    GridExecutor.__call__ = launch


def _describe_types_once() -> None:
    """Most of the interpreter's time goes into describing the types of blocks, of which there are
    few: shape, size and name are kept for each, and what a block says of its shape."""
    types: dict[tuple, dict] = {}
    numpy_dtypes: dict[str, np.dtype] = {}
    describe, make = tl.core.block_type.__init__, tl.core.tensor.__init__
    find = interpreter._get_np_dtype

    def describe_once(self, element_ty, shape):
        key = (element_ty.name, *(getattr(n, "value", n) for n in shape))
        if key not in types:
            describe(self, element_ty, shape)
            types[key] = {name: vars(self)[name] for name in ("shape", "numel", "name")}
        vars(self).update(types[key], element_ty=element_ty)

    def make_from_described(self, handle, type):
        # Types of one shape share it, so it is a place for what their blocks say of it.
        known = vars(type.shape).get("of_blocks") if type.is_block() else None
        if known is None:
            make(self, handle, type)
            if type.is_block():
                type.shape.of_blocks = {"shape": self.shape, "numel": self.numel}
        else:
            vars(self).update(known, handle=handle, type=type, dtype=type.scalar)

    def numpy_dtype(dtype):
        name = dtype.scalar.name
        if name not in numpy_dtypes:
            numpy_dtypes[name] = find(dtype)
        return numpy_dtypes[name]

    tl.core.block_type.__init__ = describe_once
    tl.core.tensor.__init__ = make_from_described
    interpreter._get_np_dtype = numpy_dtype
