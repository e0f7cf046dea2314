"""Whether any row still runs, as far as the host knows without ever waiting for the device.

When a count arrives depends on how far the device has come, so nothing that a result depends on may
be chosen by one: all that is left out is launches that would find no row.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Unknown:
    """The host learns nothing, and launches all iterations."""

    def sent(self, count: Tensor) -> None:
        """`count` int64 [1] will hold how many rows run in the next iteration."""

    def no_row_runs(self) -> bool:
        """True once a count of 0 has arrived."""
        return False


class Arriving(Unknown):
    """Has every count copied to pinned memory, and looks which copies are done. The device is
    never waited for."""

    def __init__(self, iterations: int) -> None:
        self._arrived = torch.empty(iterations, dtype=torch.int64, pin_memory=True)
        # Reading through numpy makes no call into PyTorch that could mean a copy.
        self._counts = self._arrived.numpy()
        self._events: list[torch.cuda.Event] = []
        self._seen = 0

    def sent(self, count: Tensor) -> None:
        place = len(self._events)
        self._arrived[place : place + 1].copy_(count, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)

    def no_row_runs(self) -> bool:
        while self._seen < len(self._events) and self._events[self._seen].query():
            if self._counts[self._seen] == 0:
                return True
            self._seen += 1
        return False
