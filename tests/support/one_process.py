"""A process group of one process, for wrappers that want one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

_kept: list[object] = []


@contextmanager
def one_process(folder: Path) -> Iterator[None]:
    """Within the block torch.distributed is initialised, over gloo.

    The group's object lives as long as the tests' process: its destructor waits for gloo's threads
    with the interpreter's lock held, and such a thread may want that lock to let go of the last
    product of a backward pass, so that both wait for ever.
    """
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
    )
    _kept.append(distributed.group.WORLD)
    try:
        yield
    finally:
        distributed.destroy_process_group()
