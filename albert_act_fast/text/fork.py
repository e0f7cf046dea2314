"""Threads of a process that forked are gone, but OpenMP waits for them: one thread from then on."""

from __future__ import annotations

import os
import warnings

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def one_thread_after_fork() -> None:
    """In a process that was forked, computes with one thread, as PyTorch's own DataLoader workers
    do: more would wait for threads that the fork did not copy, for ever. Says so once."""
    global _forked
    if not _forked:
        return
    _forked = False
    import torch

    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warnings.warn(
            "albert_act_fast: this process was forked from one that had used PyTorch, so it "
            "computes with one thread; start it with the method 'spawn' to have more.",
            RuntimeWarning,
            stacklevel=3,
        )
