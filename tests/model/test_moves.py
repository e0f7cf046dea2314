"""Moves of a model: dtypes, devices, copies, pickles, threads, inference mode."""

import copy
import io
import pickle
import threading

import pytest
import torch
from support import models as builders
from support.count_rows import rows_through_the_ffn
from support.models import MODELS, assert_close, head_output

import albert_act_fast as aaf

DTYPES = {
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "double": torch.float64,
    "float": torch.float32,
}


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("move", DTYPES)
@pytest.mark.parametrize("implementation", ["reference", "auto"])
@torch.no_grad()
def test_every_dtype_runs_and_stays_near_float32(cls, move, implementation):
    model, inputs = builders.model(cls), builders.batch(cls, labels=True)
    expected = model(**inputs)
    moved = getattr(model, move)()
    assert moved is model
    output = model(**inputs, implementation=implementation)
    assert {p.dtype for p in model.parameters()} == {DTYPES[move]}
    assert head_output(output).dtype == DTYPES[move]
    # Halting is computed in float32 at least.
    assert output.n_updates.dtype == torch.promote_types(DTYPES[move], torch.float32)
    same_depth = (output.n_updates == expected.n_updates).float().mean()
    assert same_depth > 0.8
    if move in ("double", "float"):
        assert_close(head_output(output).float(), head_output(expected))
        assert same_depth == 1


@torch.no_grad()
def test_low_precision_hidden_states_are_near_float32_ones():
    model, inputs = builders.model(), builders.batch()
    expected = model(**inputs)
    for dtype, tolerance in ((torch.float16, 0.02), (torch.bfloat16, 0.15)):
        output = copy.deepcopy(model).to(dtype)(**inputs)
        same = output.n_updates == expected.n_updates
        assert_close(
            output.last_hidden_state[same].float(), expected.last_hidden_state[same], tolerance
        )


@torch.no_grad()
def test_a_trip_through_double_changes_nothing():
    model, inputs = builders.model(), builders.batch()
    expected = model(**inputs).last_hidden_state
    assert torch.equal(model.double().float()(**inputs).last_hidden_state, expected)


def test_a_model_on_the_meta_device_takes_no_memory_and_can_be_emptied():
    with torch.device("meta"):
        model = aaf.AlbertActForMaskedLM(builders.config())
    assert model.device.type == "meta"
    assert model.to_empty(device="cpu").device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_to_the_gpu_and_back(cls):
    model, inputs = builders.model(cls), builders.batch(cls, labels=True)
    expected = model(**inputs)
    model.cuda()
    on_gpu = {name: x.cuda() for name, x in inputs.items()}
    for implementation in ("reference", "torch", "auto"):
        output = model(**on_gpu, implementation=implementation)
        assert head_output(output).is_cuda
        assert_close(head_output(output).cpu(), head_output(expected), tolerance=1e-3)
    # The mask may stay behind.
    model(**(on_gpu | {"attention_mask": inputs["attention_mask"]}))
    assert torch.equal(head_output(model.cpu()(**inputs)), head_output(expected))


def through_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])
@torch.no_grad()
def test_copies_give_the_same_results_and_share_nothing(cls, duplicate):
    model, inputs = builders.model(cls), builders.batch(cls)
    expected = head_output(model(**inputs)).clone()
    twin = duplicate(model)
    assert type(twin) is cls
    assert twin.config == model.config
    assert not {p.data_ptr() for p in twin.parameters()} & {
        p.data_ptr() for p in model.parameters()
    }
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(head_output(twin(**inputs)), expected)


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_outputs_can_be_pickled(cls):
    output = builders.model(cls)(**builders.batch(cls))
    again = pickle.loads(pickle.dumps(output))
    assert type(again) is type(output)
    assert list(again) == list(output)
    torch.testing.assert_close(again.to_tuple(), output.to_tuple(), rtol=0, atol=0)


@pytest.mark.parametrize("cls", MODELS)
def test_inference_mode(cls):
    model, inputs = builders.model(cls), builders.batch(cls)
    with torch.no_grad():
        expected = head_output(model(**inputs))
    with torch.inference_mode():
        output = model(**inputs)
    assert head_output(output).is_inference()
    assert torch.equal(head_output(output), expected)


def test_a_frozen_model_runs_on_the_engine_without_no_grad():
    model, inputs = builders.model().requires_grad_(False), builders.batch()
    output = model(**inputs, implementation="torch")
    assert not output.last_hidden_state.requires_grad


def test_two_threads_run_two_models():
    models = [builders.model(seed=seed) for seed in (1, 2)]
    inputs = builders.batch()
    with torch.no_grad():
        expected = [model(**inputs) for model in models]
    start, wrong = threading.Barrier(2), []

    def run(index: int) -> None:
        start.wait()
        with torch.no_grad():
            for _ in range(20):
                output = models[index](**inputs)
                if not all(torch.equal(output[name], expected[index][name]) for name in output):
                    wrong.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("cls", MODELS)
def test_inference_computes_running_tokens_alone(cls):
    model, inputs = builders.model(cls), builders.batch(cls)
    tokens = 4 * 9
    with torch.no_grad():
        output = model(**inputs)
        engine = rows_through_the_ffn(model, **inputs)
        asked_for = rows_through_the_ffn(model, **inputs, implementation="reference")
    with torch.inference_mode():
        inference_mode = rows_through_the_ffn(model, **inputs)
    with_gradients = rows_through_the_ffn(model, **inputs)
    dense = tokens * int(output.n_updates.max())
    assert engine == inference_mode == with_gradients == int(output.n_updates.sum())
    assert asked_for == dense
    assert engine < dense / 2


def test_use_implementation_holds_in_its_own_thread_alone():
    model, inputs = builders.model(), builders.batch()
    seen = {}

    def run() -> None:
        with torch.no_grad():
            seen["other"] = rows_through_the_ffn(model, **inputs)

    with torch.no_grad(), aaf.use_implementation("reference"):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        seen["here"] = rows_through_the_ffn(model, **inputs)
    assert seen["other"] < seen["here"] == 36 * 8
