"""The native engine's handle: freed with its owner, then refused; its own in a forked process."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import threading

import pytest
import torch
from support.models import random_config, random_model
from torch.fx.experimental.proxy_tensor import make_fx

from albert_act_fast import native
from albert_act_fast.engine import native_engine
from albert_act_fast.engine.layer import LayerWeights, layer_weights
from albert_act_fast.engine.native_engine import NativeEngine

pytestmark = pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))


@pytest.fixture(autouse=True)
def nothing_left_of_other_tests():
    """Models lie in cycles: an engine that is still to be collected would go in the midst of a
    count."""
    gc.collect()


def weights() -> LayerWeights:
    return layer_weights(random_model(1).encoder.albert_layer)


def run(engine: NativeEngine) -> torch.Tensor:
    hidden = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    out = torch.empty_like(hidden)
    engine.run(
        hidden=hidden,
        offsets=torch.tensor([0, 5]),
        positions=torch.arange(5),
        **random_config(num_hidden_layers=6).halting_limits._asdict(),
        out=out,
        n_updates=torch.empty(5),
        remainders=torch.empty(5),
    )
    return out


def test_an_engine_is_freed_with_its_last_reference():
    before = native_engine.count()
    engines = [NativeEngine(weights(), int8=int8, onednn=False) for int8 in (False, True)]
    for engine in engines:
        run(engine)
    assert native_engine.count() == before + 2
    del engine
    while engines:
        engines.pop()
        assert native_engine.count() == before + len(engines)


def test_an_engine_that_is_freed_while_a_call_is_recorded_is_no_part_of_it():
    before = native_engine.count()
    engines = [NativeEngine(weights(), int8=False, onednn=False)]

    def call(x):
        engines.clear()
        return x + 1

    for pre_dispatch in (False, True):
        graph = make_fx(call, pre_dispatch=pre_dispatch)(torch.ones(2)).graph
        assert native_engine.count() == before
        assert [str(n.target) for n in graph.nodes if n.op == "call_function"] == [
            "aten.add.Tensor"
        ]
        engines.append(NativeEngine(weights(), int8=False, onednn=False))


def test_an_engine_that_cannot_be_made_leaves_nothing():
    before = native_engine.count()
    with pytest.raises(ValueError, match=r"layer\.activation: got tanh"):
        NativeEngine(LayerWeights(**vars(weights()) | {"activation": "tanh"}), int8=False,
                     onednn=False)  # fmt: skip
    assert native_engine.count() == before


def test_a_model_frees_its_engine():
    before = native_engine.count()
    model = random_model(2)
    with torch.no_grad():
        model(torch.tensor([[2, 5, 3]]), implementation="cpp")
    assert native_engine.count() == before + 1
    del model
    gc.collect()
    assert native_engine.count() == before


@pytest.mark.parametrize("name", ["packed_bytes", "workspace_bytes", "seconds", "release"])
def test_a_handle_without_an_engine_is_refused(name):
    engine = NativeEngine(weights(), int8=False, onednn=False)
    handle = engine._handle
    del engine
    with pytest.raises(ValueError, match=f"engine: got {handle}, expected the handle of an engine"):
        getattr(torch.ops.albert_act_fast, f"engine_{name}").default(handle)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_engine_has_one_owner(copied):
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        copied(NativeEngine(weights(), int8=False, onednn=False))


def test_threads_share_an_engine():
    """And in all of them but the main one a run is not interrupted."""
    engine, results = NativeEngine(weights(), int8=False, onednn=False), []
    expected = run(engine)
    threads = [threading.Thread(target=lambda: results.append(run(engine))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(torch.equal(result, expected) for result in results)


def _in_a_fork(engine: NativeEngine, answers) -> None:
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    before = native_engine.count()
    inherited = run(engine)
    made = run(NativeEngine(weights(), int8=False, onednn=False))
    answers.put((inherited.tolist(), made.tolist(), native_engine.count() - before))


def test_a_forked_process_has_the_engines_of_its_parent():
    engine = NativeEngine(weights(), int8=False, onednn=False)
    expected = run(engine).tolist()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_a_fork, args=(engine, answers))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert answers.get() == (expected, expected, 0)
    assert torch.equal(run(engine), torch.tensor(expected))
