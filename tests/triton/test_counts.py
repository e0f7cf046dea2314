"""What the host learns of the running rows, with PyTorch's CUDA events replaced."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from albert_act_fast.engine.gpu import counts


def test_counts_are_taken_in_once_their_copy_is_done(monkeypatch):
    done = []

    class Event:
        def record(self):
            self.number = len(done)
            done.append(False)

        def query(self):
            return done[self.number]

        def synchronize(self):
            raise AssertionError("the host waited")

    fake = SimpleNamespace(
        empty=lambda n, dtype, pin_memory: torch.empty(n, dtype=dtype),
        int64=torch.int64,
        cuda=SimpleNamespace(Event=Event),
    )
    monkeypatch.setattr(counts, "torch", fake)
    arriving = counts.Arriving(8)
    assert not arriving.no_row_runs()
    for count in (40, 7, 0, 0):
        arriving.sent(torch.tensor([count]))
    assert not arriving.no_row_runs()
    done[0] = done[2] = True  # the second is not done: nothing after it is looked at
    assert not arriving.no_row_runs()
    done[1] = True
    assert arriving.no_row_runs()
    assert arriving.no_row_runs()


def test_who_is_told_nothing_knows_nothing():
    unknown = counts.Unknown()
    unknown.sent(torch.tensor([0]))
    assert not unknown.no_row_runs()
