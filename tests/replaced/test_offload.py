"""Weights that are elsewhere until a module is called: `accelerate`'s offloading."""

from __future__ import annotations

import accelerate
import pytest
import torch
from torch import nn

from albert_act_fast import AlbertActForSequenceClassification, AlbertActModel
from tests.replaced.agreement import (
    IMPLEMENTATIONS,
    assert_equal_or_refused,
    batch_of,
    changed,
    every_implementation,
    outputs,
    tiny,
)

CPU = torch.device("cpu")


def cpu_offload(model, folder):
    return accelerate.cpu_offload(model, execution_device=CPU, offload_buffers=True)


def disk_offload(model, folder):
    return accelerate.disk_offload(model, folder, execution_device=CPU)


def dispatched(model, folder):
    device_map = {name: "cpu" for name, _ in model.named_children()}
    device_map["encoder"] = "disk"
    return accelerate.dispatch_model(
        model, device_map, main_device="cpu", offload_dir=folder, force_hooks=True
    )


def only_the_halting_unit(model, folder):
    accelerate.cpu_offload(model.encoder.albert_layer.act, execution_device=CPU)
    return model


OFFLOADS = (cpu_offload, disk_offload, dispatched, only_the_halting_unit)


@pytest.mark.parametrize("positions", ["absolute", "relative_key_query"])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_an_offloaded_model(offload, positions, tmp_path):
    plain = tiny(position_embedding_type=positions)
    batch = batch_of(plain)
    expected = outputs(plain, "reference", **batch)
    model = offload(changed(plain, lambda _: None), tmp_path)
    assert model.encoder.albert_layer.act.dense.weight.is_meta
    for _ in range(2):
        for implementation in ("reference", *IMPLEMENTATIONS):
            assert_equal_or_refused(
                lambda implementation: outputs(model, implementation, **batch),
                expected,
                implementation,
            )


def test_loaded_with_a_device_map(tmp_path):
    plain = tiny(AlbertActForSequenceClassification)
    plain.save_pretrained(tmp_path / "model")
    model = AlbertActForSequenceClassification.from_pretrained(
        tmp_path / "model",
        device_map={"albert.embeddings": "cpu", "albert.encoder": "disk", "albert.pooler": "cpu"}
        | {"albert.pooler_activation": "cpu", "dropout": "cpu", "classifier": "cpu"},
        offload_folder=tmp_path / "weights",
    ).eval()
    assert model.albert.encoder.albert_layer.ffn.weight.is_meta
    batch = batch_of(plain)
    expected = outputs(plain, "reference", **batch)
    for implementation in ("reference", *IMPLEMENTATIONS):
        assert_equal_or_refused(
            lambda implementation: outputs(model, implementation, **batch),
            expected,
            implementation,
        )


def test_with_the_hooks_removed_the_engine_runs_again(tmp_path):
    plain = tiny()
    batch = batch_of(plain)
    model = cpu_offload(changed(plain, lambda _: None), tmp_path)
    outputs(model, "auto", **batch)
    accelerate.hooks.remove_hook_from_module(model, recurse=True)
    model.load_state_dict(plain.state_dict(), assign=True)
    expected = outputs(plain, "reference", **batch)
    for implementation in IMPLEMENTATIONS:
        refused = assert_equal_or_refused(
            lambda implementation: outputs(model, implementation, **batch),
            expected,
            implementation,
        )
        assert not refused


def weights_of_a_call(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@every_implementation
@pytest.mark.parametrize("positions", ["absolute", "relative_key_query"])
def test_a_weight_without_memory_is_named(positions, implementation):
    """No hook brings it: what stands there is whatever memory held before."""
    check_every_weight(tiny(position_embedding_type=positions), implementation, torch.no_grad())


@pytest.mark.parametrize("implementation", ["auto", "reference", "torch"])
def test_a_weight_without_memory_is_named_with_gradients_too(implementation):
    check_every_weight(tiny(), implementation, torch.enable_grad())


def test_a_weight_without_memory_is_named_by_the_reference():
    check_every_weight(tiny(), "reference", torch.no_grad())


def check_every_weight(plain: AlbertActModel, implementation: str, mode) -> None:
    batch = batch_of(plain)
    for name in weights_of_a_call(plain):
        model = changed(plain, lambda _: None)
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, leaf, nn.Parameter(getattr(module, leaf).to("meta")))
        if name.endswith("position_embeddings.weight") and (
            model.config.position_embedding_type != "absolute"
        ):
            continue  # nobody reads it
        with mode, pytest.raises(ValueError, match="meta") as error:
            model(**batch, implementation=implementation)
        assert name in str(error.value) or path.rpartition(".")[2] in str(error.value)


def test_a_model_that_is_on_meta_as_a_whole():
    with torch.device("meta"):
        model = AlbertActModel(tiny().config).eval()
    batch = batch_of(tiny())
    for implementation in ("reference", *IMPLEMENTATIONS):
        with torch.no_grad(), pytest.raises(ValueError, match="meta"):
            model(**batch, implementation=implementation)
