"""Programmatic dependent launch, on GPUs that have it: a kernel's programs are put in place while
the kernel before still runs, and wait there. Between kernels in a graph that is most of what one
takes at least.

Every kernel waits before it accesses any memory, the count of live rows included, so that it sees
all that kernels before it have written, and writes nothing that they still read. Weights alone may
be loaded ahead of that (`products.load_ahead`), where the caller says that the kernel before writes
none. All that ran before that one has ended by then: it waited before it let this one in.
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
