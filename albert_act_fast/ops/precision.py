"""How products take float32 on a GPU: by PyTorch's own switch."""

from __future__ import annotations

import torch


def takes_tf32(dtype: torch.dtype) -> bool:
    """Whether products of that dtype round their factors to TF32: float32 alone, where it was
    asked for.

    Read where every way to ask ends up (`torch.set_float32_matmul_precision`, `allow_tf32`,
    `torch.backends.fp32_precision`): the older switches raise where the newer one was used.
    """
    return dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
