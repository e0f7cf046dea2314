"""Programmatic dependent launch, on GPUs that have it: a kernel's programs are put in place while
the kernel before still runs, and wait there. Between kernels in a graph that is most of what one
takes at least.

Every kernel waits before it accesses any memory, the count of live rows included, so that it sees
all that kernels before it have written, and writes nothing that they still read. Weights may be
fetched into the cache ahead of that, as fetching reads nothing: what the kernel before still writes
is seen all the same.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait_for_the_kernel_before(PDL: tl.constexpr):
    if PDL:
        gdc_wait()
        # The next kernel's programs may come, and wait for this one's end.
        gdc_launch_dependents()


@triton.jit
def prefetch(at, is_wanted):
    """The lines of 128 bytes at these addresses, into the cache that all programs share (L2)."""
    tl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.s32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.b32 $0, 0; }",
        "=r,l,r",
        [at.to(tl.int64, bitcast=True), is_wanted.to(tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def fetch_weight(weight, weight_stride, rows, columns):
    """This program's share of a weight, one line a thread."""
    LINE: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth
    COUNT: tl.constexpr = 128
    share = tl.cdiv(rows, tl.num_programs(0))
    lines = tl.cdiv(columns, LINE)
    for start in range(0, share * lines, COUNT):
        line = start + tl.arange(0, COUNT)
        row = tl.program_id(0) * share + line // lines
        prefetch(
            weight + row * weight_stride + line % lines * LINE,
            (line < share * lines) & (row < rows),
        )
