"""Other modules in a plain one's place, other memory under a weight, dropout that is on."""

from __future__ import annotations

import functools

import pytest
import torch
from support.one_process import one_process
from torch import nn

from albert_act_fast import AlbertActForMaskedLM, AlbertActForSequenceClassification
from albert_act_fast.configuration import POSITION_TYPES
from tests.model.test_trainer import make_trainer
from tests.replaced.agreement import (
    GRADIENT_ROUNDING,
    IMPLEMENTATIONS,
    assert_equal,
    assert_equal_or_refused,
    batch_of,
    changed,
    differs,
    gradients,
    outputs,
    result_or_refusal,
    tiny,
)

LAYER = "encoder.albert_layer"
NORMS = ("embeddings.LayerNorm", f"{LAYER}.LayerNorm", f"{LAYER}.full_layer_layer_norm")


class LateHalting(nn.Module):
    def __init__(self, dense: nn.Linear):
        super().__init__()
        self.dense = dense

    def forward(self, hidden):
        return self.dense(hidden).squeeze(-1).sigmoid() / 2


class Mean(nn.Module):
    """A halting unit without a Linear."""

    def forward(self, hidden):
        return hidden.mean(-1).sigmoid()


def without_bias(linear: nn.Linear) -> nn.Linear:
    new = nn.Linear(linear.in_features, linear.out_features, bias=False)
    new.weight = linear.weight
    return new


def of_norm(make):
    def replace(model: nn.Module, path: str) -> None:
        model.set_submodule(path, make(model.get_submodule(path)))

    return replace


def norm_without_bias(norm: nn.LayerNorm) -> nn.LayerNorm:
    new = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, bias=False)
    new.weight = norm.weight
    return new


def norm_without_weights(norm: nn.LayerNorm) -> nn.LayerNorm:
    return nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)


def rms_norm(norm: nn.LayerNorm) -> nn.RMSNorm:
    return nn.RMSNorm(norm.normalized_shape, eps=norm.eps)


def local_attention(model: nn.Module) -> None:
    """A subclass that attends to fewer tokens."""
    attention = model.get_submodule(f"{LAYER}.attention")
    cls = type(attention)

    def forward(self, hidden, attention_mask, head_mask=None):
        near = attention_mask.clone()
        near[:, ::2] = False
        return cls.forward(self, hidden, near | ~near.any(1, keepdim=True), head_mask)

    attention.__class__ = type("LocalAttention", (cls,), {"forward": forward})


CHANGES = {
    **{
        f"{make.__name__} {path}": lambda m, path=path, make=make: of_norm(make)(m, path)
        for path in NORMS
        for make in (norm_without_bias, norm_without_weights, rms_norm)
    },
    **{
        f"no bias {path}": lambda m, path=path: of_norm(without_bias)(m, path)
        for path in (
            f"{LAYER}.act.dense",
            f"{LAYER}.ffn",
            f"{LAYER}.attention.key",
            "encoder.embedding_hidden_mapping_in",
        )
    },
    "a sequence of modules": lambda m: m.set_submodule(
        f"{LAYER}.ffn", nn.Sequential(m.get_submodule(f"{LAYER}.ffn"), nn.Hardtanh())
    ),
    "no norm": lambda m: m.set_submodule(f"{LAYER}.LayerNorm", nn.Identity()),
    "an unknown activation": lambda m: m.set_submodule(f"{LAYER}.activation", nn.Softsign()),
    "an activation with weights": lambda m: m.set_submodule(f"{LAYER}.activation", nn.PReLU()),
    "an activation along the tokens": lambda m: m.set_submodule(
        f"{LAYER}.activation", nn.Softmax(1)
    ),
    "gelu of another kind": lambda m: m.set_submodule(f"{LAYER}.activation", nn.GELU("tanh")),
    "halting unit": lambda m: m.set_submodule(
        f"{LAYER}.act", LateHalting(m.get_submodule(f"{LAYER}.act.dense"))
    ),
    "halting unit without Linear": lambda m: m.set_submodule(f"{LAYER}.act", Mean()),
    "attention": local_attention,
    "mapping": lambda m: m.set_submodule(
        "encoder.embedding_hidden_mapping_in", nn.Linear(8, 16, bias=False)
    ),
    "a table with something behind it": lambda m: m.set_submodule(
        "embeddings.token_type_embeddings", nn.Sequential(nn.Embedding(2, 8), nn.Tanh())
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_module(name):
    plain = tiny()
    batch = batch_of(plain)

    def compute(implementation: str):
        torch.manual_seed(0)  # for weights of new modules
        return outputs(changed(plain, CHANGES[name]), implementation, **batch)

    expected, refusal = result_or_refusal(lambda: compute("reference"))
    assert refusal is None, refusal
    assert differs(expected, outputs(plain, "reference", **batch))
    for implementation in IMPLEMENTATIONS:
        assert_equal_or_refused(compute, expected, implementation)


@pytest.mark.parametrize("name", CHANGES)
def test_another_module_in_training(name):
    plain = tiny(AlbertActForMaskedLM, dtype=torch.float64)
    batch = batch_of(plain, labels=True)

    def compute(implementation: str):
        torch.manual_seed(0)
        model = changed(plain, lambda m: CHANGES[name](m.albert)).double().train()
        return gradients(model, implementation, **batch)

    expected = compute("reference")
    for implementation in ("auto", "torch"):
        assert_equal_or_refused(compute, expected, implementation, rounding=GRADIENT_ROUNDING)


def strided(x: torch.Tensor) -> torch.Tensor:
    """The same numbers with others between them."""
    wide = x.new_full((*x.shape, 2), 7.0)
    wide[..., 0] = x
    return wide[..., 0]


def transposed(x: torch.Tensor) -> torch.Tensor:
    return x.T.contiguous().T if x.dim() == 2 else strided(x)


@pytest.mark.parametrize("layout", [strided, transposed])
def test_weights_of_any_strides(layout):
    """Plain modules in every respect: nothing is refused. All at once, and each by itself."""
    plain = tiny(position_embedding_type="relative_key_query")
    batch = batch_of(plain)
    expected = outputs(plain, "reference", **batch)
    names = [name for name, _ in plain.named_parameters()]
    for chosen in [names, *([name] for name in names)]:
        model = changed(plain, lambda _: None)
        for name in chosen:
            parameter = model.get_parameter(name)
            parameter.data = layout(parameter.data)
            assert parameter.size(-1) == 1 or not parameter.is_contiguous() or layout is transposed
        for implementation in ("reference", *IMPLEMENTATIONS):
            assert_equal(outputs(model, implementation, **batch), expected)


DROPOUTS = [name for name, module in tiny().named_modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize("path", DROPOUTS)
def test_dropout_that_is_on_in_an_eval_model(path):
    """Monte-Carlo dropout."""
    model = tiny()
    dropout = model.get_submodule(path)
    dropout.p = 0.5
    dropout.train()
    assert not model.training
    batch = batch_of(model)

    def compute(implementation: str, seed: int = 0):
        torch.manual_seed(seed)
        return outputs(model, implementation, **batch)

    expected = compute("reference")
    assert differs(expected, compute("reference", seed=1))
    assert_equal_or_refused(compute, expected, "auto")
    for implementation in IMPLEMENTATIONS:
        found, refusal = result_or_refusal(functools.partial(compute, implementation))
        # Packed rows draw other numbers, but they do draw.
        assert refusal is not None or differs(found, compute(implementation, seed=1))
    dropout.eval()
    expected = outputs(model, "reference", **batch)
    for implementation in IMPLEMENTATIONS:
        assert not assert_equal_or_refused(compute, expected, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_neftune(implementation, tmp_path):
    """Trainer hooks the word embeddings; the noise's size is that of whole sequences."""
    model = tiny(AlbertActForSequenceClassification, vocab_size=40, implementation=implementation)
    reference = changed(model, lambda m: setattr(m.config, "implementation", "reference"))

    def losses(model) -> list[float]:
        trainer = make_trainer(
            model, tmp_path, max_steps=2, neftune_noise_alpha=5.0, logging_steps=1, seed=3
        )
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    found, refusal = result_or_refusal(lambda: losses(model))
    if refusal is None:
        assert found == pytest.approx(losses(reference), rel=1e-4)
    else:
        assert implementation != "auto"
        assert refusal.startswith("implementation: got ")


@pytest.mark.parametrize("implementation", ["auto", "torch", "reference"])
@pytest.mark.parametrize("positions", POSITION_TYPES)
def test_distributed_data_parallel(positions, implementation, tmp_path):
    """Every parameter gets a gradient, or the second step fails."""
    model = tiny(AlbertActForSequenceClassification, position_embedding_type=positions).train()
    batch = batch_of(model, labels=True)
    expected = gradients(model, "reference", **batch)
    model.zero_grad()
    with one_process(tmp_path):
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in range(3):
            model.zero_grad()
            output = parallel(**batch, implementation=implementation)
            (output.loss + 0.01 * output.ponder_cost.sum()).backward()
    found = {n: p.grad for n, p in model.named_parameters() if n in expected}
    assert_equal(found | {"loss": expected["loss"]}, expected, GRADIENT_ROUNDING)
