"""What other tools leave in a module's place: quantised, pruned, normalised, wrapped ones."""

from __future__ import annotations

import copy
import warnings

import bitsandbytes
import pytest
import torch
from support.models import random_model
from support.one_process import one_process
from torch import distributed, nn
from torch.nn.utils import parametrizations, prune
from transformers import BitsAndBytesConfig

from albert_act_fast.modules import HaltingLinear
from tests.replaced.agreement import (
    IMPLEMENTATIONS,
    assert_equal,
    assert_equal_or_refused,
    batch_of,
    changed,
    differs,
    outputs,
    tiny,
)

LINEARS = (
    "encoder.embedding_hidden_mapping_in",
    "encoder.albert_layer.attention.query",
    "encoder.albert_layer.attention.key",
    "encoder.albert_layer.attention.value",
    "encoder.albert_layer.attention.dense",
    "encoder.albert_layer.ffn",
    "encoder.albert_layer.ffn_output",
    "encoder.albert_layer.act.dense",
)
TABLES = (
    "embeddings.word_embeddings",
    "embeddings.token_type_embeddings",
    "embeddings.position_embeddings",
)
NORMS = (
    "embeddings.LayerNorm",
    "encoder.albert_layer.LayerNorm",
    "encoder.albert_layer.full_layer_layer_norm",
)
HALTING = "encoder.albert_layer.act.dense"


def check(change, *, plain: nn.Module | None = None, truth=None, positions: str = "absolute"):
    """Every implementation on a model changed for it alone (one call may renew what another reads)
    equals the reference on such a model, and on one with weights changed by `truth`.
    """
    plain = tiny(position_embedding_type=positions) if plain is None else plain
    batch = batch_of(plain)

    def compute(implementation: str):
        return outputs(changed(plain, change), implementation, **batch)

    expected = compute("reference")
    assert differs(expected, outputs(plain, "reference", **batch)), "the change changes nothing"
    if truth is not None:
        assert_equal(expected, outputs(changed(plain, truth), "reference", **batch))
    for implementation in IMPLEMENTATIONS:
        assert_equal_or_refused(compute, expected, implementation)


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    model.set_submodule(path, module)


def eight_bit(linear: nn.Linear) -> nn.Module:
    new = bitsandbytes.nn.Linear8bitLt(
        linear.in_features, linear.out_features, has_fp16_weights=False
    )
    new.load_state_dict(linear.state_dict())
    return new.to("cpu")


def four_bit(linear: nn.Linear) -> nn.Module:
    new = bitsandbytes.nn.Linear4bit(linear.in_features, linear.out_features, quant_type="nf4")
    new.load_state_dict(linear.state_dict())
    return new.to("cpu")


def dequantised(module: nn.Module) -> torch.Tensor:
    """The weight that a product with the identity shows; rounded activations are exact there."""
    eye = torch.eye(module.in_features)
    with torch.no_grad():
        return (module(eye) - module.bias).T


@pytest.mark.parametrize("paths", [LINEARS, (HALTING,), LINEARS[:-1]], ids=["all", "halting", "6"])
@pytest.mark.parametrize("quantised", [eight_bit, four_bit])
def test_bitsandbytes(quantised, paths):
    def change(model):
        for path in paths:
            replace(model, path, quantised(model.get_submodule(path)))

    check(change)


@pytest.mark.parametrize("quantised", [eight_bit, four_bit])
def test_bitsandbytes_of_the_halting_unit_halts_as_its_weights_say(quantised):
    """Codes taken for weights gave other depths, in the reference too."""
    plain = tiny()
    batch = batch_of(plain)
    module = quantised(plain.get_submodule(HALTING))
    model = changed(plain, lambda m: replace(m, HALTING, module))
    truth = changed(
        plain, lambda m: m.get_submodule(HALTING).weight.data.copy_(dequantised(module))
    )
    given, expected = (outputs(m, "reference", **batch) for m in (model, truth))
    # 8 bit rounds activations too.
    torch.testing.assert_close(
        given["last_hidden_state"], expected["last_hidden_state"], rtol=0, atol=0.1
    )
    assert (given["n_updates"] == expected["n_updates"]).float().mean() > 0.9


@pytest.mark.parametrize("bits", [8, 4])
def test_loaded_in_few_bits(bits, tmp_path):
    # bitsandbytes' 4-bit products on CPUs want outputs in blocks of 32; the halting unit has one.
    wide = {"hidden_size": 64, "intermediate_size": 128, "embedding_size": 64}
    plain = tiny(**wide)
    plain.save_pretrained(tmp_path)
    quantisation = BitsAndBytesConfig(
        **{f"load_in_{bits}bit": True},
        llm_int8_skip_modules=["act.dense"] if bits == 4 else ["pooler"],
    )
    model = (
        type(plain)
        .from_pretrained(
            tmp_path, quantization_config=quantisation, device_map="cpu", dtype=torch.float32
        )
        .eval()
    )
    # The tool replaces plain Linears alone: the halting unit keeps its precision.
    assert type(model.get_submodule(HALTING)) is HaltingLinear
    assert type(model.get_submodule(LINEARS[1])) is not nn.Linear
    batch = batch_of(plain)
    expected = outputs(model, "reference", **batch)
    assert expected["last_hidden_state"].isfinite().all()
    for implementation in IMPLEMENTATIONS:
        assert_equal_or_refused(
            lambda implementation: outputs(model, implementation, **batch),
            expected,
            implementation,
        )


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
def test_quantize_dynamic():
    """One scale for all rows of a product: packed rows alone would give other codes."""
    plain = tiny()
    batch = batch_of(plain)
    model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain), {nn.Linear}, torch.qint8)
    assert type(model.get_submodule(HALTING)) is not nn.Linear
    expected = outputs(model, "reference", **batch)
    assert differs(expected, outputs(plain, "reference", **batch))
    for implementation in IMPLEMENTATIONS:
        assert_equal_or_refused(
            lambda implementation: outputs(model, implementation, **batch),
            expected,
            implementation,
        )


def test_torchao():
    """Tensor subclasses as weights, in plain nn.Linear modules."""
    torchao = pytest.importorskip("torchao", reason="torchao is not installed")
    plain = tiny()
    check(
        lambda model: torchao.quantization.quantize_(
            model, torchao.quantization.Int8WeightOnlyConfig()
        ),
        plain=plain,
    )


@pytest.fixture
def process_group(tmp_path):
    with one_process(tmp_path):
        yield


@pytest.mark.parametrize("whole", [True, False], ids=["model", "layer"])
@pytest.mark.usefixtures("process_group")
def test_fsdp(whole):
    """Weights are distributed tensors but within the forward of the module that was sharded."""
    from torch.distributed.fsdp import fully_shard

    plain = tiny()
    batch = batch_of(plain)
    model = changed(plain, lambda _: None)
    mesh = distributed.init_device_mesh("cpu", (1,))
    fully_shard(model.encoder.albert_layer, mesh=mesh)
    if whole:
        fully_shard(model, mesh=mesh)
    expected = outputs(plain, "reference", **batch)
    for implementation in ("reference", *IMPLEMENTATIONS):
        assert_equal_or_refused(
            lambda implementation: outputs(model, implementation, **batch),
            expected,
            implementation,
        )


@pytest.mark.parametrize("path", [*LINEARS, *TABLES, *NORMS])
def test_a_weight_of_another_tensor_class_is_not_read(path):
    """Whatever it holds, only its own `__torch_function__` knows."""

    class Negated(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if function in (
                nn.functional.linear,
                nn.functional.embedding,
                nn.functional.layer_norm,
            ):

                def meant(x):
                    return -x.as_subclass(torch.Tensor) if isinstance(x, cls) else x

                return function(*map(meant, args), **{k: meant(v) for k, v in kwargs.items()})
            return super().__torch_function__(function, types, args, kwargs)

    def change(model):
        module = model.get_submodule(path)
        negated = module.weight.detach().clone().as_subclass(Negated)
        module.weight = nn.Parameter(negated, requires_grad=False)
        assert isinstance(module.weight, Negated)

    check(change, truth=lambda model: model.get_submodule(path).weight.data.neg_())


def moved_on(module: nn.Module, name: str) -> None:
    """As training does: what `weight` was computed from moves on, `weight` itself does not."""
    with torch.no_grad():
        getattr(module, name).mul_(1.5)


def old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module, dim=None if module.weight.dim() == 1 else 0)
    moved_on(module, "weight_g")


def new_weight_norm(module):
    parametrizations.weight_norm(module, dim=None if module.weight.dim() == 1 else 0)
    moved_on(module.parametrizations.weight, "original0")


def old_spectral_norm(module):
    # Only the hook brings `weight` there; it holds what it held until then.
    torch.manual_seed(0)
    nn.utils.spectral_norm(module)
    module.eval()


def new_spectral_norm(module):
    torch.manual_seed(0)
    parametrizations.spectral_norm(module).eval()


def pruned(module):
    prune.l1_unstructured(module, "weight", 0.4)
    moved_on(module, "weight_orig")


def bias_pruned(module):
    prune.l1_unstructured(module, "bias", 0.4 if module.bias.numel() > 1 else 1)


ON_WEIGHTS = [
    *((path, f) for path in LINEARS + TABLES + NORMS for f in (old_weight_norm, new_weight_norm)),
    *((path, f) for path in LINEARS + TABLES for f in (old_spectral_norm, new_spectral_norm)),
    *((path, pruned) for path in LINEARS + TABLES + NORMS),
    *((path, bias_pruned) for path in LINEARS + NORMS),
]


@pytest.mark.parametrize(("path", "change"), ON_WEIGHTS)
def test_weights_that_are_computed(path, change):
    plain = tiny()
    batch = batch_of(plain)

    def compute(implementation):
        return outputs(
            changed(plain, lambda m: change(m.get_submodule(path))), implementation, **batch
        )

    expected = compute("reference")
    assert differs(expected, outputs(plain, "reference", **batch))
    for implementation in IMPLEMENTATIONS:
        assert_equal_or_refused(compute, expected, implementation)


@pytest.mark.parametrize("path", TABLES)
def test_a_table_with_a_largest_norm(path):
    """Looking rows up shortens them, in the table itself."""

    def change(model):
        model.get_submodule(path).max_norm = 0.5

    check(change)


def test_a_model_with_computed_weights_after_a_plain_call():
    """An engine made before must not be used after."""
    plain = random_model(1)
    batch = batch_of(plain)
    for path in LINEARS + NORMS:
        model = changed(plain, lambda _: None)
        outputs(model, "auto", **batch)
        pruned(model.get_submodule(path))
        found = outputs(model, "auto", **batch)
        assert_equal(found, outputs(model, "reference", **batch))
