"""Loads the native operators, if this installation has them.

Nothing is compiled here and no GPU is touched. A library that does not load is no reason to fail:
the package works without it; why it is missing is kept and told to whoever asks for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings

import torch

from albert_act_fast.flags import is_set

GIVE_WAY = "ALBERT_ACT_FAST_GIVE_WAY"
_MODULE = "albert_act_fast._cpp_ops"
_INSTALL_AGAIN = "pip install --force-reinstall --no-deps . (in the sources)"


def _load():
    """Returns the module and None, or None and the reason why it is not there."""
    if importlib.util.find_spec(_MODULE) is None:
        return None, (
            "the C++ operators were not built (ALBERT_ACT_FAST_SKIP_CPP was set, or this is "
            f"Windows); to have them, with a C++ compiler: {_INSTALL_AGAIN}"
        )
    try:
        return importlib.import_module(_MODULE), None
    except ImportError as error:
        reason = f"{_MODULE} does not load under torch {torch.__version__}: {error}"
        warnings.warn(f"albert_act_fast: {reason}", RuntimeWarning, stacklevel=2)
        return None, reason


# The library, whose operators importing it registers; and None where it is there, else the reason.
library, why_no_cpp = _load()


def build_info() -> dict[str, str] | None:
    """How the C++ operators were built, the instruction set they run on ("amx", "avx512_vnni",
    "avx512", "avx2" or "portable"), the dtypes whose products they compute for any number of rows,
    and for which GPUs the CUDA operators were built ("" without those); None without the library.
    """
    return None if library is None else library.build_info()


def instruction_set() -> str | None:
    """What the C++ operators run on; None without them."""
    return None if library is None else build_info()["instruction_set"]


def gives_way() -> bool:
    """Whether one of PyTorch's threads, as many as there are now, computes alone while other
    programs keep the machine busy (docs/threads.md)."""
    if library is None or not is_set(GIVE_WAY, default="1"):
        return False
    return 1 < torch.get_num_threads() <= library.MOST_THREADS_THAT_GIVE_WAY


def why_no_cuda() -> str | None:
    """None where the CUDA operators were built, else the reason."""
    if library is None:
        return why_no_cpp
    if build_info()["cuda"]:
        return None
    return (
        "the CUDA operators were not built (there was no nvcc, or ALBERT_ACT_FAST_SKIP_CUDA was "
        f"set); to have them, with nvcc on the PATH: {_INSTALL_AGAIN}"
    )


def why_not_on_gpu(capability: tuple[int, int], driver: int | None) -> str | None:
    """None where a GPU can run the CUDA operators as they were built, else the reason.

    Machine code for sm_XY runs on GPUs of the same major version from X.Y on; PTX, there for the
    newest, is compiled by the driver for those after it. (CUDA C++ Programming Guide, "Binary
    Compatibility" and "PTX Compatibility")

    Args:
        capability: the GPU's compute capability.
        driver: the newest CUDA release that the driver serves, as 1000 * major + 10 * minor; None
            where it is not known.
    """
    reason = why_no_cuda()
    if reason is not None:
        return reason
    built = build_info()["cuda"]
    major, minor = map(int, re.match(r"CUDA (\d+)\.(\d+)", built).groups())
    codes = [divmod(int(code), 10) for code in re.findall(r"sm_(\d+)", built)]
    has_code = any(code[0] == capability[0] and code <= capability for code in codes)
    if not has_code and capability < max(codes):
        return (
            f"the GPU has compute capability {capability[0]}.{capability[1]}, and the CUDA "
            f"operators were built with {built} (ALBERT_ACT_FAST_CUDA_ARCHITECTURES chooses others)"
        )
    # A driver serves all releases of its major version, but compiles no PTX of a later one.
    needed = 1000 * major + (0 if has_code else 10 * minor)
    if driver is not None and driver < needed:
        return (
            f"the GPU's driver serves CUDA up to {driver // 1000}.{driver % 1000 // 10}, and the "
            f"CUDA operators were built with {built}"
        )
    return None
