"""One input has one result, to the bit: whenever counts arrive, and with or without a graph. In
float32 a sequence has it beside whatever other sequences, too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from support.compare import run
from support.device_loop import Late, layer_and_rows, on_device
from support.models import random_model
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from albert_act_fast.engine.gpu.graphs import capacity_of
from albert_act_fast.engine.packing import PackedResult
from albert_act_fast.kernels import launch_tables
from albert_act_fast.kernels.launch_tables import Products

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
# As many tiles as there are for 16 bits, for launches small enough to be interpreted.
THREE_TILES = (
    (4, Products(16, 16, 16, 0, 16, 16, 16, 4, 2)),
    (12, Products(16, 32, 32, 4, 16, 16, 16, 4, 2)),
    (None, Products(32, 16, 64, 12, 16, 32, 32, 4, 2)),
)


@pytest.fixture
def order_of_the_tile(interpreted, monkeypatch):
    """Products add up the columns of one step one by one, then the steps: another BLOCK_K is
    another order, and nothing else is, whatever NumPy's library does."""

    def create_dot(self, a, b, accumulator, input_precision, max_num_imprecise_acc):
        total = np.zeros(accumulator.data.shape, np.float32)
        for k in range(a.data.shape[1]):
            total += a.data[:, k, None] * b.data[k]
        return TensorHandle(total + accumulator.data, accumulator.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


def same(given, expected) -> bool:
    """To the bit, NaN included."""
    return all(
        torch.equal(x.view(torch.int32), y.view(torch.int32))
        for x, y in zip(
            (given.hidden, given.n_updates, given.remainders),
            (expected.hidden, expected.n_updates, expected.remainders),
            strict=True,
        )
    )


@pytest.mark.usefixtures("order_of_the_tile")
def test_counts_that_come_early_late_or_never(monkeypatch):
    monkeypatch.setitem(launch_tables._PRODUCTS, "sm_80", {4: THREE_TILES})
    lengths = [12, 3, 8]
    layer, hidden, limits = layer_and_rows(2, lengths, num_hidden_layers=10, halting_bias=-0.6)
    never = on_device(layer, hidden, lengths, limits)
    running = [int((never.n_updates >= i).sum()) for i in range(1, 10)]
    assert any(4 < n <= 12 for n in running), "some launches should find rows for smaller tiles"
    assert any(0 < n <= 4 for n in running)
    for counts in (Late(0), Late(1), Late(0, seed=1)):
        assert same(on_device(layer, hidden, lengths, limits, counts=counts), never)
    # A graph's capacity: more rows and sequences, and it never hears of a count.
    assert capacity_of(23, 3).rows == 32
    assert same(on_device(layer, hidden, lengths, limits, more=(9, 1)), never)


def test_a_graph_has_the_tiles_of_the_launches_without_one():
    """Whatever the GPU; more than 16,384 rows are so many of any tile that all take the same."""

    def tiles(architecture, rows, size, multiprocessors):
        of_gpu = (size, multiprocessors)
        for width in (768, 2304, 3072):
            yield launch_tables.wide_products(architecture, rows, width, *of_gpu)
            for depth in (768, 3072):
                yield launch_tables.splits(architecture, rows, depth, width, *of_gpu)
        yield launch_tables.products(architecture, rows, size)

    for architecture, multiprocessors in itertools.product(ARCHITECTURES, (78, 114, 132, 148)):
        for size in (2, 4):
            for rows in (*range(1, 2100), *range(2100, 20_000, 67)):
                graph = capacity_of(rows, 1).rows
                assert list(tiles(architecture, rows, size, multiprocessors)) == list(
                    tiles(architecture, graph, size, multiprocessors)
                )


def test_copied_tiles_are_as_wide_as_the_multiprocessors_like():
    def wide(rows, columns, multiprocessors=132, architecture="sm_90"):
        found = launch_tables.wide_products(architecture, rows, columns, 2, multiprocessors)
        return found and (found.BLOCK_N, found.FEW_ROWS)

    # One round of 128 tiles for 132 multiprocessors, in place of one of 96 wider ones.
    assert wide(4096, 768) == (192, 2048)
    # Three rounds either way.
    assert wide(4096, 3072) == (256, 640)
    # Two rounds of 128, one of 96.
    assert wide(4096, 768, multiprocessors=114) == (256, 2432)
    assert wide(2049, 768) is None, "72 tiles leave too many multiprocessors idle"
    assert wide(2048, 3072) is None
    assert wide(8192, 768, architecture="sm_100") == (256, 2816)
    assert wide(8192, 768, architecture="sm_80") is None


def in_batch(layer, rows, limits, order):
    """The results of the sequences `order` of `rows`, computed as one batch."""
    hidden, lengths = torch.cat([rows[i] for i in order]), [rows[i].size(0) for i in order]
    result = on_device(layer, hidden, lengths, limits)
    parts = zip(
        result.hidden.split(lengths),
        result.n_updates.split(lengths),
        result.remainders.split(lengths),
        strict=True,
    )
    return {i: PackedResult(*part) for i, part in zip(order, parts, strict=True)}


@pytest.mark.usefixtures("order_of_the_tile")
@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_float32_is_batch_invariant(position):
    """Alone, in a batch, and in another order: every row is added up in the same order."""
    lengths = [38, 3, 31]
    layer, hidden, limits = layer_and_rows(
        5, lengths, num_hidden_layers=4, halting_bias=-1.0, position_embedding_type=position
    )
    rows = hidden.split(lengths)
    batch = in_batch(layer, rows, limits, (0, 1, 2))
    assert torch.cat([batch[i].n_updates for i in batch]).unique().numel() > 2
    shuffled = in_batch(layer, rows, limits, (2, 0, 1))
    for i in range(3):
        assert same(shuffled[i], batch[i])
        assert same(in_batch(layer, rows, limits, (i,))[i], batch[i])


@pytest.mark.usefixtures("order_of_the_tile")
def test_a_model_is_batch_invariant_in_float32():
    """From the ids on; the product before the iterations is the engine's own, too."""
    model, lengths = random_model(6, num_hidden_layers=3, halting_bias=-1.0), [19, 3, 11]
    generator = torch.Generator().manual_seed(6)
    ids = [torch.randint(model.config.vocab_size, (n,), generator=generator) for n in lengths]

    def states(order):
        chosen = [ids[i] for i in order]
        padded = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(x) for x in chosen], True)
        output = run(model, "triton", input_ids=padded, attention_mask=mask)
        parts = zip(
            order, output.last_hidden_state, output.n_updates, output.remainders, strict=True
        )
        return {i: PackedResult(*(x[: lengths[i]] for x in part)) for i, *part in parts}

    batch, shuffled = states((0, 1, 2)), states((2, 0, 1))
    for i in range(3):
        assert same(shuffled[i], batch[i])
        assert same(states((i,))[i], batch[i])


def test_float32_has_one_tile():
    """What the test above rests on, for every architecture."""
    for architecture in ARCHITECTURES:
        tiles = {launch_tables.products(architecture, rows, 4) for rows in (1, 64, 512, 100_000)}
        assert len(tiles) == 1
        assert tiles.pop().FEW_ROWS == 0
        assert launch_tables.wide_products(architecture, 100_000, 3072, 4, 132) is None
