"""Loads the native operators, if this installation has them.

Nothing is compiled here and no GPU is touched. A library that does not load is no reason to fail:
the package works without it; why it is missing is kept and told to whoever asks for it.
"""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path

import torch

_LIBRARY = Path(__file__).with_name("_cpp_ops.so")


def _load() -> str | None:
    """Returns None when loaded, else the reason why not."""
    if not _LIBRARY.exists():
        return (
            "the C++ operators were not built; install again with a C++ compiler on the PATH and "
            "PyTorch visible to the build: pip install --no-build-isolation ."
        )
    try:
        torch.ops.load_library(_LIBRARY)
    except OSError as error:
        reason = f"{_LIBRARY.name} does not load under torch {torch.__version__}: {error}"
        warnings.warn(f"albert_act_fast: {reason}", RuntimeWarning, stacklevel=2)
        return reason
    return None


# None where the C++ operators are there.
why_no_cpp = _load()


def instruction_set() -> str | None:
    """What the C++ operators run on: "avx512", "avx2" or "portable"; None without them."""
    if why_no_cpp is not None:
        return None
    function = ctypes.CDLL(str(_LIBRARY)).albert_act_fast_instruction_set
    function.restype = ctypes.c_char_p
    return function().decode()
