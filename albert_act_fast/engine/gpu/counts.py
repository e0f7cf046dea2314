"""What the host knows of the number of running rows without ever waiting for the device.

The number only falls, so that any earlier one bounds the rows of a launch.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KnownAtFirst:
    """Knows the number before the first iteration, and learns nothing more.

    `known[i]`: rows running in iteration i + 1, for as many iterations as the host knows them.
    """

    def __init__(self, rows: int) -> None:
        self.known = [rows]

    def bound(self, iteration: int) -> int:
        """At least as many rows as run in that iteration, which counts from 1."""
        return self.known[min(iteration, len(self.known)) - 1]

    def age(self, iteration: int) -> int:
        """How many iterations old the bound is; 0: it is the number itself."""
        return max(0, iteration - len(self.known))

    def sent(self, count: Tensor) -> None:
        """`count` int64 [1] will hold the number of the next iteration."""

    def poll(self) -> None:
        """Takes in what has arrived."""


class Arriving(KnownAtFirst):
    """Has every count copied to pinned memory, and looks which copies are done. The device is
    never waited for: how much is known depends on how far it has come."""

    def __init__(self, rows: int, iterations: int) -> None:
        super().__init__(rows)
        self._arrived = torch.empty(iterations, dtype=torch.int64, pin_memory=True)
        # Reading through numpy makes no call into PyTorch that could mean a copy.
        self._counts = self._arrived.numpy()
        self._events: list[torch.cuda.Event] = []

    def sent(self, count: Tensor) -> None:
        place = len(self._events)
        self._arrived[place : place + 1].copy_(count, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)

    def poll(self) -> None:
        while len(self.known) <= len(self._events) and self._events[len(self.known) - 1].query():
            self.known.append(int(self._counts[len(self.known) - 1]))
